"""Reads the step log of a process: what the virtual GPU did for each engine step (csrc/include/rvt_steps.h).

A run writes it when REVATI_STEPS names a folder in the environment of its programs: one file per engine process,
readable at any time, also after a kill.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revati_coordinator.errors import CoordinatorError
from revati_coordinator.host import extension_ffi
from revati_coordinator.use import FAMILIES

__all__ = ["Step", "StreamWork", "read_steps"]


@dataclass(frozen=True)
class StreamWork:
    """One stream's part of a step: first start and last end (virtual ns), sum of durations, pieces of work."""

    stream: int
    first_ns: int
    last_ns: int
    busy_ns: int
    launches: int


@dataclass(frozen=True)
class Step:
    """One engine step. `observed_ns` is the virtual time of its batch's announcement; `family_ns` leaves out zeros.

    `streams` are in order of first use: as a rule the first one carries the model.
    """

    index: int
    observed_ns: int
    sequences: int
    decodes: int
    tokens: int
    padded: int
    launches: int
    family_ns: dict[str, int]
    streams: tuple[StreamWork, ...]


def read_steps(path: Path) -> list[Step]:
    """The steps of one file, in order. Raises CoordinatorError if it cannot be read."""
    ffi = extension_ffi()
    size = ffi.sizeof("struct rvt_step")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CoordinatorError(f"step log {path}: {error.strerror}") from error
    records = ffi.from_buffer("struct rvt_step[]", data[: len(data) // size * size])
    steps = []
    for raw in records:
        if raw.index == 0:
            break
        steps.append(_step(raw))
    return steps


def _step(raw: Any) -> Step:
    return Step(
        index=raw.index,
        observed_ns=raw.observed_ns,
        sequences=raw.nseq,
        decodes=raw.decodes,
        tokens=raw.tokens,
        padded=raw.padded,
        launches=raw.launches,
        family_ns={name: int(ns) for name, ns in zip(FAMILIES, raw.family_ns) if ns},
        streams=tuple(StreamWork(s.id - 1, s.first_ns, s.last_ns, s.busy_ns, s.launches) for s in raw.stream if s.id),
    )
