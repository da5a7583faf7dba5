"""What the programs beside this file share: checks that are exact inside the virtual clock and lenient natively."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

INSIDE = "REVATI_PAGE" in os.environ
failures: list[str] = []
SLACK_NS = 2_000_000_000  # natively, on a loaded machine


def at(what: str, start_ns: int, delay_s: float, tolerance_ns: int = 1_000) -> None:
    """The present moment must be `delay_s` after `start_ns`, up to `tolerance_ns` later."""
    late_ns = time.monotonic_ns() - start_ns - round(delay_s * 1e9)
    if not (-1_000 if INSIDE else -1_000_000) <= late_ns <= (tolerance_ns if INSIDE else SLACK_NS):
        failures.append(f"{what}: {late_ns:+} ns off")


def same(what: str, got: object, expected: object) -> None:
    if got != expected:
        failures.append(f"{what}: {got!r} instead of {expected!r}")


def run(*cases: Callable[[], object]) -> None:
    """Runs every case, prints one line each and exits with 1 if any failed."""
    status = 0
    wanted = sys.argv[1:]
    for case in cases:
        if wanted and case.__name__ not in wanted:
            continue
        failures.clear()
        case()
        for failure in failures:
            print(f"FAIL {case.__name__}: {failure}", flush=True)
            status = 1
        if not failures:
            print(f"ok {case.__name__}", flush=True)
    sys.exit(status)
