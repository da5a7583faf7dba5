"""Random numbers by purpose: each use has its own stream, so that changing one leaves the others as they are."""

from __future__ import annotations

import math
import random
from typing import Any

__all__ = ["Draw", "stream"]


def stream(seed: int, *purpose: str) -> random.Random:
    """A generator that depends on the seed and the purpose alone (not on the Python version or process)."""
    return random.Random(f"revati-1/{seed}/" + "/".join(purpose))


class Draw:
    """Draws from one of the spreads of the case format (constant, uniform, normal, ...)."""

    def __init__(self, spread: dict[str, Any] | None, source: random.Random, *, whole: bool) -> None:
        self._spread: dict[str, Any] = spread if spread is not None else {"kind": "constant", "value": 0}
        self._random = source
        self._whole = whole

    def __call__(self) -> float:
        value = self._value()
        low, high = self._spread.get("low"), self._spread.get("high")
        if low is not None:
            value = max(value, low)
        if high is not None:
            value = min(value, high)
        return round(value) if self._whole else value

    def _value(self) -> float:
        spread, source = self._spread, self._random
        kind = spread["kind"]
        if kind == "constant":
            return float(spread["value"])
        if kind == "uniform":
            low, high = spread["low"], spread["high"]
            return float(source.randint(low, high)) if self._whole else source.uniform(low, high)
        if kind == "normal":
            return source.gauss(spread["mean"], spread["deviation"])
        if kind == "lognormal":
            return float(spread["median"]) * math.exp(source.gauss(0.0, spread["sigma"]))
        if kind == "exponential":
            value = -math.log(1.0 - source.random()) * float(spread["mean"])
            return max(value, 1.0) if self._whole else value
        return float(source.choices(spread["values"], spread["weights"])[0])
