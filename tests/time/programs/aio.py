"""asyncio: timers, time-outs, loopback servers, subprocesses, executors. With UVLOOP=1 on uvloop.

Both loops count milliseconds and round up, so that a timer may be up to 1 ms late (2 with uvloop), natively as well.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time

from clockcheck import INSIDE, at, run, same

MS = 1_100_000 if os.environ.get("UVLOOP") != "1" else 2_100_000
if os.environ.get("UVLOOP") == "1":
    import uvloop

    uvloop.install()


async def _timers() -> None:
    for delay in (0.01, 0.021, 3600.0 if INSIDE else 0.03):
        start = time.monotonic_ns()
        await asyncio.sleep(delay)
        at(f"sleep({delay})", start, delay, MS)
    start = time.monotonic_ns()
    await asyncio.gather(*(asyncio.sleep(0.001 * i) for i in range(100)))
    at("a hundred timers", start, 0.099, MS)
    order: list[int] = []
    loop = asyncio.get_running_loop()
    for i in (3, 1, 2):
        loop.call_later(0.01 * i, order.append, i)
    await asyncio.sleep(0.05)
    same("order", order, [1, 2, 3])


async def _time_outs() -> None:
    start = time.monotonic_ns()
    try:
        await asyncio.wait_for(asyncio.sleep(100), 0.02)
        same("wait_for", "done", "TimeoutError")
    except asyncio.TimeoutError:
        at("wait_for", start, 0.02, MS)
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, event.set)
    start = time.monotonic_ns()
    await asyncio.wait_for(event.wait(), 10)
    at("Event", start, 0.02, MS)


async def _serve(unix: bool) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await asyncio.sleep(float(line))
            writer.write(b"%d\n" % time.monotonic_ns())
        writer.close()

    path = os.path.join(tempfile.mkdtemp(), "socket")
    if unix:
        server = await asyncio.start_unix_server(answer, path)
        reader, writer = await asyncio.open_unix_connection(path)
    else:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    for i in range(20):
        start = time.monotonic_ns()
        writer.write(b"0.005\n")
        sent = int(await reader.readline())
        at("the answer's way", sent, 0, 0)
        at(f"answer {i}", start, 0.005, MS)
    writer.close()
    await asyncio.sleep(0.01)  # the server's side ends, too
    server.close()


async def _process() -> None:
    start = time.monotonic_ns()
    child = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.02; echo x", stdout=asyncio.subprocess.PIPE)
    output, _ = await child.communicate()
    same("output", output, b"x\n")
    at("subprocess", start, 0.02, MS)


async def _executor() -> None:
    loop = asyncio.get_running_loop()
    start = time.monotonic_ns()
    await asyncio.gather(*(loop.run_in_executor(None, time.sleep, 0.02) for _ in range(4)))
    at("executor", start, 0.02)


def timers() -> None:
    asyncio.run(_timers())


def time_outs() -> None:
    asyncio.run(_time_outs())


def tcp() -> None:
    asyncio.run(_serve(False))


def unix() -> None:
    asyncio.run(_serve(True))


def process() -> None:
    asyncio.run(_process())


def executor() -> None:
    asyncio.run(_executor())


run(timers, time_outs, tcp, unix, process, executor)
