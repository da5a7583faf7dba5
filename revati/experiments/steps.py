"""Engine steps of a result: what each batch was and what the GPU did for it, in virtual time after the load's start.

A row is plain JSON: `engine` (0, 1, ... for each engine process), `time_ns` (the batch was announced), `sequences`,
`decodes`, `tokens`, `padded`, `launches`, `family_ns` (GPU time by operator family) and `streams`, one
`[stream, first start ns, last end ns, busy ns, launches]` each.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from revati.experiments.stats import percentile
from revati_coordinator.errors import CoordinatorError
from revati_coordinator.steps import read_steps

__all__ = ["EMBEDDED_STEPS_MAX", "load_steps", "step_metrics"]

EMBEDDED_STEPS_MAX = 20_000


def load_steps(folder: Path, zero_ns: int, end_ns: int) -> list[dict[str, Any]]:
    """The steps that were announced from zero_ns to end_ns (clock of the run), with times after zero_ns, in order."""
    rows = []
    for engine, path in enumerate(sorted(folder.glob("*.steps"))):
        with contextlib.suppress(CoordinatorError):
            for step in read_steps(path):
                if zero_ns <= step.observed_ns <= end_ns:
                    rows.append(_row(engine, step, zero_ns))
    return sorted(rows, key=lambda row: (row["time_ns"], row["engine"]))


def _row(engine: int, step: Any, zero_ns: int) -> dict[str, Any]:
    return {
        "engine": engine,
        "time_ns": step.observed_ns - zero_ns,
        "sequences": step.sequences,
        "decodes": step.decodes,
        "tokens": step.tokens,
        "padded": step.padded,
        "launches": step.launches,
        "family_ns": step.family_ns,
        "streams": [[s.stream, s.first_ns - zero_ns, s.last_ns - zero_ns, s.busy_ns, s.launches] for s in step.streams],
    }


def step_metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Sizes of the batches, and GPU time of a step: the busy time of the stream that had most of it."""
    if not rows:
        return {}
    columns = {
        "step.sequences": [float(row["sequences"]) for row in rows],
        "step.tokens": [float(row["tokens"]) for row in rows],
        "step.gpu_ms": [max((s[3] for s in row["streams"]), default=0) / 1e6 for row in rows],
    }
    result = {"step.count": float(len(rows))}
    for name, values in columns.items():
        ordered = sorted(values)
        result[f"{name}.mean"] = sum(ordered) / len(ordered)
        for q in (50, 99):
            result[f"{name}.p{q}"] = percentile(ordered, q)
    return result
