"""How a duration is taken: calls captured into a CUDA graph and replayed between two events; a host clock in a dry run.

A graph leaves out launch gaps caused by the host, as a serving engine's decode graphs do. Where capture is not
possible the calls are launched one by one between two events, and the row says "event".
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = ["Timing", "kernels_of", "measure", "measure_dry"]

Call = Callable[[], Any]

_TARGET_US = 1500.0  # duration of one replay: far above the resolution of an event, far below the budget of a cell
_MAX_NODES = 512
_REPLAYS = 8


class Timing(NamedTuple):
    """Microseconds per call over the replays; `calls` is how many calls one replay holds."""

    lat_us: float
    min_us: float
    p90_us: float
    calls: int
    replays: int
    method: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "lat_us": round(self.lat_us, 4),
            "min_us": round(self.min_us, 4),
            "p90_us": round(self.p90_us, 4),
            "calls": self.calls,
            "replays": self.replays,
            "method": self.method,
        }


def _summary(samples_us: list[float], calls: int, method: str) -> Timing:
    ordered = sorted(samples_us)
    return Timing(
        statistics.median(ordered), ordered[0], ordered[int(0.9 * (len(ordered) - 1))], calls, len(ordered), method
    )


def measure(calls: Sequence[Call], *, capture: bool = True) -> Timing:
    """Times `calls`, run in turn (each has its own buffers, see the operators), on the current GPU.

    Raises whatever the calls raise; a failed capture falls back to events.
    """
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:3]:
            call()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for call in [*calls, *calls, *calls, *calls][:4]:
            call()
        end.record()
        end.synchronize()
        estimate_us = max(1.0, start.elapsed_time(end) * 1000 / 4)
        rounds = _rounds(len(calls), estimate_us)
        if capture:
            try:
                return _graph(calls, rounds, stream)
            except RuntimeError as problem:
                if "out of memory" in str(problem):
                    raise
                torch.cuda.synchronize()
        samples = []
        for _ in range(_REPLAYS):
            start.record()
            for _ in range(rounds):
                for call in calls:
                    call()
            end.record()
            end.synchronize()
            samples.append(start.elapsed_time(end) * 1000 / (rounds * len(calls)))
    return _summary(samples, rounds * len(calls), "event")


def _rounds(distinct: int, estimate_us: float) -> int:
    wanted = max(1.0, _TARGET_US / estimate_us)
    return max(1, min(int(wanted / distinct + 0.5), max(1, _MAX_NODES // distinct)))


def _graph(calls: Sequence[Call], rounds: int, stream: Any) -> Timing:
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for _ in range(rounds):
            for call in calls:
                call()
    graph.replay()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    samples = []
    for _ in range(_REPLAYS):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) * 1000 / (rounds * len(calls)))
    del graph
    return _summary(samples, rounds * len(calls), "graph")


def measure_dry(calls: Sequence[Call]) -> Timing:
    """The same with the host's clock, on whatever device the calls use: shows that they run, not how fast a GPU is."""
    calls[0]()
    samples = []
    for _ in range(2):
        start_ns = time.perf_counter_ns()
        for call in calls[:4]:
            call()
        samples.append((time.perf_counter_ns() - start_ns) / 1000 / len(calls[:4]))
    return _summary(samples, len(calls[:4]), "dry")


def kernels_of(call: Call, repeats: int = 4) -> list[tuple[str, float]]:
    """(name, median us) of the kernels of one call in launch order, from CUPTI activity through torch.profiler.

    Empty if the profiler sees no kernels, or not the same ones at each repeat.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    events = [
        (e.start_ns(), e.name(), e.duration_ns() / 1000)
        for e in profiler.profiler.kineto_results.events()
        if "CUDA" in str(e.device_type()) and not e.name().startswith(("Memcpy HtoD", "Context Sync", "Stream Wait"))
    ]
    events.sort()
    if not events or len(events) % repeats:
        return []
    per_call = len(events) // repeats
    runs = [events[i * per_call : (i + 1) * per_call] for i in range(repeats)]
    if any([e[1] for e in run] != [e[1] for e in runs[0]] for run in runs):
        return []
    return [(runs[0][i][1], statistics.median(run[i][2] for run in runs)) for i in range(per_call)]
