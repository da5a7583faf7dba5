"""multiprocessing with fork and spawn: queues, events, semaphores, pools."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.context
import os
import queue
import signal
import time
from typing import Any

from clockcheck import INSIDE, at, run, same

# Python computes what is left of a time-out in floating point and rounds it up to whole milliseconds for poll.
POLL_NS = 1_010_000


def sleeps_and_sends(box: Any, delay: float) -> None:
    time.sleep(delay)
    box.put(time.monotonic_ns())


def answers(connection: Any) -> None:
    while (delay := connection.recv()) is not None:
        time.sleep(delay)
        connection.send(time.monotonic_ns())


def sets(event: Any, semaphore: Any, delay: float) -> None:
    time.sleep(delay)
    event.set()
    time.sleep(delay)
    semaphore.release()


def _with(context: multiprocessing.context.BaseContext) -> None:
    box = context.Queue()
    start = time.monotonic_ns()
    child = context.Process(target=sleeps_and_sends, args=(box, 0.05))
    child.start()
    sent = box.get(timeout=100)
    at("Queue.get", sent, 0, tolerance_ns=0 if INSIDE else 1_000)
    child.join()
    same("code", child.exitcode, 0)
    if INSIDE:
        at("start, sleep, end", start, 0.05, tolerance_ns=1_000_000_000)
    start = time.monotonic_ns()
    try:
        box.get(timeout=0.03)
        same("get", "an item", "Empty")
    except queue.Empty:
        at("Queue.get", start, 0.03, POLL_NS)

    here, there = context.Pipe()
    child = context.Process(target=answers, args=(there,))
    child.start()
    same("poll", here.poll(0.01), False)
    for _ in range(5):
        start = time.monotonic_ns()
        here.send(0.01)
        sent = here.recv()
        at("answer", sent, 0, tolerance_ns=0)
    start = time.monotonic_ns()
    here.send(0.01)
    same("poll", here.poll(10), True)
    at("poll", start, 0.01, POLL_NS)
    here.send(None)
    child.join()

    event, semaphore = context.Event(), context.Semaphore(0)
    start = time.monotonic_ns()
    same("wait", event.wait(0.02), False)
    at("Event.wait", start, 0.02)
    start = time.monotonic_ns()
    same("acquire", semaphore.acquire(timeout=0.02), False)
    at("Semaphore.acquire", start, 0.02)
    child = context.Process(target=sets, args=(event, semaphore, 0.02))
    child.start()
    same("wait", event.wait(100), True)
    start = time.monotonic_ns()
    same("acquire", semaphore.acquire(timeout=100), True)
    at("Semaphore.release", start, 0.02)
    child.join(100)
    same("alive", child.is_alive(), False)


def fork() -> None:
    _with(multiprocessing.get_context("fork"))


def spawn() -> None:
    _with(multiprocessing.get_context("spawn"))


def pool() -> None:
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as workers:
        list(workers.map(time.sleep, [0.001] * 3))
        start = time.monotonic_ns()
        list(workers.map(time.sleep, [0.05, 0.02, 0.03]))
        at("three sleeps on three processes", start, 0.05, tolerance_ns=10_000)


def killed() -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000 if INSIDE else 1,))
    child.start()
    start = time.monotonic_ns()
    child.join(0.02)
    at("join(timeout)", start, 0.02, POLL_NS)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    same("code", child.exitcode, -9)
    at("kill", start, 0.02, POLL_NS)


if __name__ == "__main__":
    run(fork, spawn, pool, killed)
