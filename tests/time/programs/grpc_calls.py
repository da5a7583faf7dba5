"""grpcio: deadlines, calls that take their time, streams."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator

import grpc
from clockcheck import INSIDE, at, run, same


def _slow(request: bytes, context: grpc.ServicerContext) -> bytes:
    time.sleep(float(request))
    return b"%d" % time.monotonic_ns()


def _stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for _ in range(5):
        time.sleep(float(request))
        yield b"%d" % time.monotonic_ns()


arrivals: list[tuple[int, int]] = []  # sent and seen, ns


def arrived(sent_ns: int) -> None:
    arrivals.append((sent_ns, time.monotonic_ns()))


def one_delay(messages: list[tuple[int, int]]) -> None:
    """Every message comes at once, but for one time of up to 255 ms.

    absl, on which grpc is built, compares the processor's tick counter with the clock when a lock is first contended:
    up to 8 sleeps of 1, 2, 4, ... 128 ms until two agree within 1 %. The counter does not follow virtual time, so all 8
    pass, and what needs that thread waits for it. (Natively two are enough.)
    """
    late = [(sent, seen) for sent, seen in messages if seen - sent > 1_000_000]
    if late and INSIDE:
        span_ns = max(seen for _, seen in late) - min(sent for sent, _ in late)
        same("messages late at more than one time", span_ns <= 256_000_000, True)


def calls() -> None:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    handlers = {
        "Slow": grpc.unary_unary_rpc_method_handler(_slow),
        "Stream": grpc.unary_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    grpc.channel_ready_future(channel).result(timeout=30)
    slow, stream = channel.unary_unary("/Test/Slow"), channel.unary_stream("/Test/Stream")
    for _ in range(5):
        arrived(int(slow(b"0.02", timeout=100)))
    start = time.monotonic_ns()
    try:
        slow(b"5", timeout=2)
        same("call", "done", "DEADLINE_EXCEEDED")
    except grpc.RpcError as error:
        same("code", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        at("deadline", start, 2.0, 5_000_000)
    for message in stream(b"0.01"):
        arrived(int(message))
    one_delay(arrivals)
    channel.close()
    server.stop(0).wait()


run(calls)
