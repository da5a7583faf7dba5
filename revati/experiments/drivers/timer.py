"""Sleeping until an exact nanosecond inside asyncio.

The event loop rounds its timeouts up to whole milliseconds (epoll has no finer ones), so that a request planned for
12.3 ms would leave at 13 ms. One thread with a condition variable waits exactly and wakes the loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time

__all__ = ["Timer"]


class Timer:
    """Exact sleeps for one event loop, on time.perf_counter_ns."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ids = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="revati-timer", daemon=True)
        self._thread.start()

    async def sleep_until(self, time_ns: int) -> None:
        """Returns at time_ns, or at once when it has passed."""
        if time_ns <= time.perf_counter_ns():
            return
        future: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            heapq.heappush(self._heap, (time_ns, next(self._ids), future))
            self._changed.notify()
        await future

    def close(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                if not self._heap:
                    self._changed.wait()
                    continue
                now_ns = time.perf_counter_ns()
                left_ns = self._heap[0][0] - now_ns
                if left_ns > 0:
                    self._changed.wait(left_ns / 1e9)
                    continue
                due = []
                while self._heap and self._heap[0][0] <= now_ns:
                    due.append(heapq.heappop(self._heap)[2])
                self._loop.call_soon_threadsafe(_wake, due)


def _wake(due: list[asyncio.Future[None]]) -> None:
    for future in due:
        if not future.done():
            future.set_result(None)
