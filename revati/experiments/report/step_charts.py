"""Charts of the engine's steps over virtual time: what a batch is made of, its size, the GPU's time for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

__all__ = ["step_charts"]

_STEPS_DRAWN = 700
_GAP_SHARE = 1 / 200  # of the time axis: an idle time that can be seen

Row = dict[str, Any]


def step_charts(results: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Charts as charts.js draws them; none for results without step rows. Times are in s, GPU times in ms."""
    engines = [item for result, name in zip(results, names) for item in _engines(result, name)]
    charts: list[dict[str, Any]] = []
    for name, rows in engines:
        series = [
            {"name": "decode", "points": _stairs(rows, lambda row: row["decodes"])},
            {"name": "prefill", "points": _stairs(rows, lambda row: max(0, row["tokens"] - row["decodes"]))},
        ]
        charts.append({"title": f"Tokens in a step · {name}", "stack": True, "series": series})
    if engines:
        series = [{"name": name, "points": _stairs(rows, lambda row: row["sequences"])} for name, rows in engines]
        charts.append({"title": "Sequences in a step", "series": series})
        series = [{"name": name, "points": _dots(rows)} for name, rows in engines]
        charts.append({"title": "GPU time of a step (ms)", "dots": True, "series": series})
    return charts


def _engines(result: dict[str, Any], name: str) -> list[tuple[str, list[Row]]]:
    """The rows of each engine process, in order of time."""
    rows = result.get("steps") or []
    engines = sorted({row["engine"] for row in rows})
    return [
        (name if len(engines) == 1 else f"{name} · engine {engine}", [row for row in rows if row["engine"] == engine])
        for engine in engines
    ]


def _groups(rows: list[Row]) -> list[list[Row]]:
    """Neighbours together, so many that no more than _STEPS_DRAWN groups are left."""
    size = -(-len(rows) // _STEPS_DRAWN)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _span_ns(row: Row) -> tuple[int, int]:
    """When the GPU worked for a step, on the stream that had most of it: engines announce steps ahead of that."""
    _, first_ns, last_ns, _, _ = max(row["streams"], key=lambda stream: stream[3], default=(0, row["time_ns"], 0, 0, 0))
    return first_ns, max(first_ns, last_ns)


def _stairs(rows: list[Row], value: Callable[[Row], float]) -> list[list[float]]:
    """A level for each step until the GPU starts the next one, zero while it idles visibly.

    A group of steps has the level of its step with most tokens, whatever the value: so decode and prefill stay of one
    batch, and peaks are not lost.
    """
    ordered = sorted(rows, key=_span_ns)
    gap_ns = (_span_ns(ordered[-1])[1] - _span_ns(ordered[0])[0]) * _GAP_SHARE
    groups = _groups(ordered)
    points: list[list[float]] = []
    for group, after in itertools.zip_longest(groups, groups[1:]):
        level = float(value(max(group, key=lambda row: (row["tokens"], -row["time_ns"]))))
        start_ns, end_ns = _span_ns(group[0])[0], _span_ns(group[-1])[1]
        next_ns = _span_ns(after[0])[0] if after is not None else None
        points.append([start_ns / 1e9, level])
        if next_ns is not None and next_ns - end_ns <= gap_ns:
            points.append([next_ns / 1e9, level])
        else:
            points += [[end_ns / 1e9, level], [end_ns / 1e9, 0.0]]
            points += [[next_ns / 1e9, 0.0]] if next_ns is not None else []
    return points


def _dots(rows: list[Row]) -> list[list[float]]:
    """Each step's busy time on the stream that had most of it; of a group of steps the longest and the shortest."""
    points: list[list[float]] = []
    for group in _groups(rows):
        dots = [[_span_ns(row)[0] / 1e9, max((s[3] for s in row["streams"]), default=0) / 1e6] for row in group]
        dots.sort(key=lambda dot: dot[1])
        points += sorted([dots[0], dots[-1]]) if len(dots) > 1 else dots
    return points
