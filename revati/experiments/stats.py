"""Percentiles over values of any number: exact up to a limit, then logarithmic bins of known error."""

from __future__ import annotations

import math
from array import array

__all__ = ["PERCENTILES", "Values", "percentile"]

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)

_EXACT_MAX = 4_000_000  # 32 MB of doubles
_BINS_PER_OCTAVE = 1024  # relative error of a binned percentile below 0.04 %


def percentile(ordered: array[float] | list[float], percent: float) -> float:
    """Linear interpolation between closest ranks, as numpy's default and the benchmark clients compute it."""
    position = (len(ordered) - 1) * percent / 100.0
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


class Values:
    """Collects numbers that are not negative; memory is bounded."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.most = -math.inf
        self._exact: array[float] | None = array("d")
        self._bins: dict[int, int] = {}

    def add(self, value: float, times: int = 1) -> None:
        self.count += times
        self.total += value * times
        self.least = min(self.least, value)
        self.most = max(self.most, value)
        if self._exact is not None:
            if len(self._exact) + times <= _EXACT_MAX:
                self._exact.extend([value] * times) if times != 1 else self._exact.append(value)
                return
            for old in self._exact:
                self._put(old, 1)
            self._exact = None
        self._put(value, times)

    def _put(self, value: float, times: int) -> None:
        index = -(1 << 40) if value <= 0 else math.floor(math.log2(value) * _BINS_PER_OCTAVE)
        self._bins[index] = self._bins.get(index, 0) + times

    @property
    def exact(self) -> bool:
        return self._exact is not None

    def percentiles(self, percents: tuple[float, ...] = PERCENTILES) -> list[float]:
        if self.count == 0:
            return []
        if self._exact is not None:
            ordered = array("d", sorted(self._exact))
            return [percentile(ordered, percent) for percent in percents]
        return [self._binned(percent) for percent in percents]

    def _binned(self, percent: float) -> float:
        rank, seen = (self.count - 1) * percent / 100.0, 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen > rank:
                middle = 0.0 if index == -(1 << 40) else 2 ** ((index + 0.5) / _BINS_PER_OCTAVE)
                return min(max(middle, self.least), self.most)
        return self.most

    def summary(self, prefix: str) -> dict[str, float]:
        """{prefix.mean, .p50, ... .max}; empty without values."""
        if self.count == 0:
            return {}
        result = {f"{prefix}.mean": self.total / self.count}
        for percent, value in zip(PERCENTILES, self.percentiles()):
            result[f"{prefix}.p{percent:g}"] = value
        result[f"{prefix}.max"] = self.most
        return result
