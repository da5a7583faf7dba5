"""What a run's result must say about its predictions: shares by source, and intervals of the reported figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from revati_predictors.predictor import SOURCE_NAMES
from revati_predictors.wire import FAMILY

__all__ = [
    "Interval",
    "coverage_warning",
    "family_shares",
    "propagate",
    "source_shares",
    "statement",
    "time_factors",
    "uncovered_operators",
]

_FAMILY_NAMES = [name.lower() for name, _ in sorted(FAMILY.items(), key=lambda item: item[1])]
WARN_SHARE = 0.2
_WORST = 10


class Interval(NamedTuple):
    """A figure with its 80 % interval, in the figure's unit."""

    value: float
    low: float
    high: float


def source_shares(time_ns: Sequence[Sequence[int]]) -> dict[str, float]:
    """Share of GPU time by source; time_ns[family][source] as in the device page. All zero without GPU time."""
    totals = [sum(row[s] for row in time_ns) for s in range(len(SOURCE_NAMES))]
    whole = sum(totals)
    return {name: (total / whole if whole else 0.0) for name, total in zip(SOURCE_NAMES, totals)}


def family_shares(time_ns: Sequence[Sequence[int]]) -> dict[str, float]:
    """Share of GPU time by operator family, families without time left out."""
    totals = [sum(row) for row in time_ns]
    whole = sum(totals)
    return {name: t / whole for name, t in zip(_FAMILY_NAMES, totals) if whole and t}


def time_factors(time_ns: Sequence[Sequence[int]], widths: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """(low, high) factors of the whole GPU time for an 80 % interval.

    widths: for each family, (low, high) of its predictions relative to the median, e.g. (0.96, 1.05), as the service's
    statistics give them. Errors within a family are taken as fully correlated (the same model made them), those of
    different families as independent.
    """
    below = above = 0.0
    for family, share in family_shares(time_ns).items():
        low, high = widths.get(family, (1.0, 1.0))
        below += (share * (1.0 - low)) ** 2
        above += (share * (high - 1.0)) ** 2
    return max(0.0, 1.0 - math.sqrt(below)), 1.0 + math.sqrt(above)


def propagate(value: float, factors: tuple[float, float], gpu_share: float = 1.0, inverse: bool = False) -> Interval:
    """The interval of a figure of which `gpu_share` is GPU time (TTFT, TPOT), or of a rate (`inverse`).

    To first order: queueing amplifies it near saturation, which only a second run with scaled times shows.
    """
    low, high = (1.0 + gpu_share * (f - 1.0) for f in factors)
    return Interval(value, value / high, value / low) if inverse else Interval(value, value * low, value * high)


def coverage_warning(shares: Mapping[str, float], threshold: float = WARN_SHARE) -> str | None:
    """The line that a result must begin with if too much GPU time is extrapolated or fallback, else None."""
    uncovered = shares.get("extrapolated", 0.0) + shares.get("fallback", 0.0)
    if uncovered <= threshold:
        return None
    extrapolated, fallback = (100 * shares.get(name, 0.0) for name in ("extrapolated", "fallback"))
    return (
        f"WARNING: {100 * uncovered:.0f} % of the GPU time is outside the measured tables "
        f"({extrapolated:.0f} % extrapolated, {fallback:.0f} % roofline); "
        "do not trust absolute figures before looking at the operators listed"
    )


def uncovered_operators(operator_ns: Sequence[int], predictor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Up to ten of `operator_ns` with the most time: [{"operator": name, "us": microseconds}, ...], largest first."""
    named = [(name, ns) for name, ns in zip(predictor.get("operators", []), operator_ns) if ns]
    worst = sorted(named, key=lambda item: (-item[1], item[0]))[:_WORST]
    return [{"operator": name, "us": ns / 1e3} for name, ns in worst]


def statement(
    family_ns: Mapping[str, int],
    source_ns: Mapping[str, int],
    operator_ns: Sequence[int],
    predictor: Mapping[str, Any],
) -> dict[str, Any]:
    """What a result says about its predictions.

    family_ns, source_ns: GPU time of the load by family and by source; operator_ns: of uncovered operators, by the
    service's index. predictor: the service's statistics (empty with constant durations). `coverage`: share by source.
    `interval`: (low, high) factors of the GPU time, [] without any. `uncovered`: up to ten operators with the most
    extrapolated or roofline time, in microseconds of all their launches. `warning`: the line to begin with, or None.
    """
    total = sum(source_ns.values())
    coverage = {name: source_ns.get(name, 0) / total for name in SOURCE_NAMES} if total else {}
    widths = {name: (row["low"], row["high"]) for name, row in predictor.get("by_family", {}).items()}
    times = [[family_ns.get(name, 0)] for name in _FAMILY_NAMES]
    return {
        "coverage": coverage,
        "interval": list(time_factors(times, widths)) if widths else [],
        "uncovered": uncovered_operators(operator_ns, predictor),
        "warning": coverage_warning(coverage),
    }
