"""Python's signals: interval timers, alarm, sigwait, sigtimedwait, wake-up descriptors, handlers in the main thread."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time

from clockcheck import at, run, same


def interval() -> None:
    times: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, frame: times.append(time.monotonic_ns()))
    start = time.monotonic_ns()
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.05)
    while len(times) < 3:
        signal.pause()
    at("setitimer", start, 0.12)
    signal.setitimer(signal.ITIMER_REAL, 0)


def sleeps_go_on() -> None:
    """time.sleep is taken up again after a handler (PEP 475)."""
    count: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: count.append(number))
    start = time.monotonic_ns()
    for delay in (0.01, 0.02):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    time.sleep(0.05)
    same("handlers", len(count), 2)
    at("sleep", start, 0.05)


def time_limit() -> None:
    """The usual trick: an exception out of an alarm ends a blocking call."""

    class TooLate(Exception):
        pass

    def late(number: int, frame: object) -> None:
        raise TooLate

    signal.signal(signal.SIGALRM, late)
    start = time.monotonic_ns()
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    quiet, _ = os.pipe()
    try:
        os.read(quiet, 1)
        same("read", "data", "TooLate")
    except TooLate:
        at("read", start, 0.03)
    start = time.monotonic_ns()
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    try:
        select.select([quiet], [], [])
        same("select", "ready", "TooLate")
    except TooLate:
        at("select", start, 0.03)


def waits() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    start = time.monotonic_ns()
    same("sigtimedwait", signal.sigtimedwait({signal.SIGUSR2}, 0.02), None)
    at("sigtimedwait", start, 0.02)
    start = time.monotonic_ns()
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR2)).start()
    same("sigwait", signal.sigwait({signal.SIGUSR2}), signal.SIGUSR2)
    at("sigwait", start, 0.02)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


async def _loop() -> None:
    seen = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, seen.set)
    start = time.monotonic_ns()
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    await asyncio.wait_for(seen.wait(), 5)
    at("loop.add_signal_handler", start, 0.02)


def loop() -> None:
    asyncio.run(_loop())


run(interval, sleeps_go_on, time_limit, waits, loop)
