"""The predictor interface: operators in, durations with an interval and a source out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from revati_predictors.gpus import Gpu
from revati_predictors.operators import Copy, GraphLaunch, Operator, Stream
from revati_predictors.roofline import estimate_us

__all__ = [
    "EXTRAPOLATED",
    "FALLBACK",
    "INTERPOLATED",
    "MEASURED",
    "SOURCE_NAMES",
    "Estimate",
    "Predictor",
    "RooflinePredictor",
]

MEASURED, INTERPOLATED, EXTRAPOLATED, FALLBACK = 0, 1, 2, 3
SOURCE_NAMES = ("measured", "interpolated", "extrapolated", "fallback")


class Estimate(NamedTuple):
    """Microseconds with an 80 % interval, and where they come from (the numbers of enum rvt_source)."""

    us: float
    lo_us: float
    hi_us: float
    source: int


class Predictor(Protocol):
    """Anything that gives durations for operators of one GPU, in order and without state that the caller sees."""

    gpu: Gpu

    def predict(self, operators: Sequence[Operator]) -> list[Estimate]:
        """One estimate for each operator."""

    def to_come(self, op: Operator) -> Iterator[Operator]:
        """Operators like this one, of other sizes, that are worth a price before anybody asks."""


class RooflinePredictor:
    """Physics only. Its interval is what a roofline deserves: a factor of two each way, less for plain copies."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def predict(self, operators: Sequence[Operator]) -> list[Estimate]:
        """One fallback estimate for each operator."""
        out = []
        for op in operators:
            us = max(0.1, estimate_us(self.gpu, op))
            spread = 1.5 if isinstance(op, (Stream, Copy, GraphLaunch)) else 2.0
            out.append(Estimate(us, us / spread, us * spread, FALLBACK))
        return out

    def to_come(self, op: Operator) -> Iterator[Operator]:
        """None: they cost nothing."""
        del op
        return iter(())
