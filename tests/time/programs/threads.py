"""threading, queue and concurrent.futures: time-outs and hand-over."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time

from clockcheck import INSIDE, at, run, same

HOUR = 3600.0 if INSIDE else 0.05


def sleeps() -> None:
    for delay in (0.01, 0.0123, HOUR):
        start = time.monotonic_ns()
        time.sleep(delay)
        at(f"sleep({delay})", start, delay)


def locks() -> None:
    lock = threading.Lock()
    lock.acquire()
    start = time.monotonic_ns()
    same("acquire", lock.acquire(timeout=0.02), False)
    at("Lock.acquire", start, 0.02)
    start = time.monotonic_ns()
    threading.Timer(0.03, lock.release).start()
    same("acquire", lock.acquire(timeout=5), True)
    at("Lock.release by a Timer", start, 0.03)
    rlock, semaphore = threading.RLock(), threading.Semaphore(0)
    start = time.monotonic_ns()
    same("semaphore", semaphore.acquire(timeout=0.02), False)
    at("Semaphore.acquire", start, 0.02)
    with rlock:
        thread = threading.Thread(target=lambda: same("rlock", rlock.acquire(timeout=0.01), False))
        thread.start()
        thread.join()


def events() -> None:
    event, condition = threading.Event(), threading.Condition()
    start = time.monotonic_ns()
    same("wait", event.wait(0.02), False)
    at("Event.wait", start, 0.02)
    with condition:
        start = time.monotonic_ns()
        same("wait", condition.wait(0.02), False)
        at("Condition.wait", start, 0.02)
    start = time.monotonic_ns()
    threading.Timer(0.02, event.set).start()
    same("wait", event.wait(10), True)
    at("Event.set", start, 0.02)
    thread = threading.Thread(target=time.sleep, args=(0.04,))
    start = time.monotonic_ns()
    thread.start()
    thread.join(0.01)
    at("join with a limit", start, 0.01)
    thread.join()
    at("join", start, 0.04)


def queues() -> None:
    box: queue.Queue[int] = queue.Queue(maxsize=1)
    start = time.monotonic_ns()
    try:
        box.get(timeout=0.02)
        same("get", "an item", "Empty")
    except queue.Empty:
        at("Queue.get", start, 0.02)
    box.put(1)
    start = time.monotonic_ns()
    try:
        box.put(2, timeout=0.02)
        same("put", "room", "Full")
    except queue.Full:
        at("Queue.put", start, 0.02)
    start = time.monotonic_ns()
    threading.Timer(0.03, box.get).start()
    box.put(3, timeout=10)
    at("Queue.put when there is room", start, 0.03)
    simple: queue.SimpleQueue[int] = queue.SimpleQueue()
    start = time.monotonic_ns()
    threading.Timer(0.02, simple.put, (4,)).start()
    same("item", simple.get(timeout=10), 4)
    at("SimpleQueue.get", start, 0.02)


def barriers() -> None:
    barrier = threading.Barrier(4)

    def arrive(delay: float) -> None:
        time.sleep(delay)
        barrier.wait()

    start = time.monotonic_ns()
    threads = [threading.Thread(target=arrive, args=(0.01 * i,)) for i in range(1, 4)]
    for thread in threads:
        thread.start()
    barrier.wait()
    at("Barrier", start, 0.03)
    for thread in threads:
        thread.join()


def futures() -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        start = time.monotonic_ns()
        same(
            "map",
            list(pool.map(lambda delay: time.sleep(delay) or delay, [0.04, 0.02, 0.03, 0.01, 0.01])),
            [0.04, 0.02, 0.03, 0.01, 0.01],
        )
        at("five sleeps on four threads", start, 0.04)
        slow = pool.submit(time.sleep, 0.05)
        start = time.monotonic_ns()
        try:
            slow.result(timeout=0.02)
            same("result", "done", "TimeoutError")
        except concurrent.futures.TimeoutError:
            at("result(timeout)", start, 0.02)
        done, waiting = concurrent.futures.wait([slow, pool.submit(time.sleep, 1.0)], return_when="FIRST_COMPLETED")
        same("first completed", (len(done), len(waiting)), (1, 1))
        at("wait", start, 0.05)


run(sleeps, locks, events, queues, barriers, futures)
