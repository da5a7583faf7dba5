"""A server that waits for clients outside its clock: virtual time then follows real time instead of running away.

Idle time passes at once in virtual time. For a load generator in the same clock that is the point; for somebody who
starts `revati run -- vllm serve` and types `curl` a while later, centuries would go by, at the cost of a core.
"""

from __future__ import annotations

import time
from typing import Any

__all__ = ["IdleBrake"]

IDLE_AFTER_S = 2.0


class IdleBrake:
    """Called about ten times a second. Brakes once the GPUs have worked and nothing happened for a while.

    Something happens when GPU time is spent, a joined command runs or an external actor is registered. A clock that the
    user paused is left alone.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._gpu_ns = 0
        self._active = self._last = time.monotonic()
        self.braking = False

    def __call__(self) -> None:
        now = time.monotonic()
        elapsed_s, self._last = now - self._last, now
        host = self._run.coordinator.host
        gpu_ns = self._run.use().total_ns
        busy = gpu_ns != self._gpu_ns or self._run.coordinator.joined > 0 or host.status().actors > 0
        self._gpu_ns = gpu_ns
        if busy:
            self._active = now
        if host.held_by_user or not gpu_ns:
            return
        if now - self._active >= IDLE_AFTER_S:
            self.braking = True
            host.run_to(host.now_ns() + round(elapsed_s * 1e9))
        elif self.braking:
            self.braking = False
            host.resume()
