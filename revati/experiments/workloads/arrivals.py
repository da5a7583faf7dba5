"""Open-loop arrival times: endless, non-decreasing integer nanoseconds after the start of the load."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from revati.experiments.workloads.model import NS_PER_S

__all__ = ["arrival_times"]


def arrival_times(arrival: dict[str, Any], source: random.Random) -> Iterator[int]:
    """Times of one of the open-loop kinds of the case format."""
    kind = arrival["kind"]
    if kind == "at_once":
        return _constant(0.0)
    if kind == "constant":
        return _constant(1.0 / arrival["rate_per_s"])
    if kind == "poisson":
        mean_s = 1.0 / arrival["rate_per_s"]
        return _gaps(lambda: -math.log(1.0 - source.random()) * mean_s)
    if kind == "gamma":
        shape = arrival["burstiness"]
        scale_s = 1.0 / (arrival["rate_per_s"] * shape)
        return _gaps(lambda: source.gammavariate(shape, scale_s))
    if kind == "ramp":
        first, last, over_s = arrival["from_per_s"], arrival["to_per_s"], arrival["over_s"]
        return _thinned(lambda t: first + (last - first) * min(t / over_s, 1.0), max(first, last), source)
    if kind == "spikes":
        every_s, width_s = arrival["every_s"], arrival["width_s"]
        base, spike = arrival["base_per_s"], arrival["spike_per_s"]
        # A spike ends each period, so that a run begins with the base load.
        return _thinned(lambda t: spike if t % every_s >= every_s - width_s else base, max(base, spike), source)
    raise ValueError(f"not an open-loop arrival: {kind}")


def _constant(gap_s: float) -> Iterator[int]:
    index = 0
    while True:
        yield round(index * gap_s * NS_PER_S)
        index += 1


def _gaps(draw_s: Callable[[], float]) -> Iterator[int]:
    time_s = 0.0
    while True:
        time_s += draw_s()
        yield round(time_s * NS_PER_S)


def _thinned(rate_at: Callable[[float], float], rate_max: float, source: random.Random) -> Iterator[int]:
    """Non-homogeneous Poisson by thinning (Lewis and Shedler): candidates at the largest rate, kept with rate/max."""
    time_s = 0.0
    while True:
        time_s += -math.log(1.0 - source.random()) / rate_max
        if source.random() * rate_max <= rate_at(time_s):
            yield round(time_s * NS_PER_S)
