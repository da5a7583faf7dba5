"""LightGBM fits, samples, splits and errors that training shares; all seeded, all the same on a second run."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors.boosting import Model, compact_text
from revati_predictors.families import Columns

__all__ = ["errors", "fit", "quantiles", "sample", "split_hash", "stretch_by_group", "take", "three"]

Floats = NDArray[np.float64]
COVERAGE = 0.812  # aim of the 80 % interval on held-out rows, between the 75 and 88 % that are promised
_QUANTILE_ROWS = 15000  # more rows change these models little and cost minutes
_FEW = 20  # held-out rows below which they say nothing
_NARROWEST = 0.002  # log width below which a quantile model is not believed


def split_hash(columns: Columns, names: Sequence[str], seed: int) -> Floats:
    """A number in [0, 1) for every row that depends on the named columns only."""
    parts = zip(*(columns[n].tolist() for n in names))
    memo: dict[Any, float] = {}
    out = []
    for key in parts:
        if key not in memo:
            memo[key] = zlib.crc32(repr((seed, key)).encode()) / 2**32
        out.append(memo[key])
    return np.array(out)


def take(columns: Columns, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Some rows of every column."""
    return {name: values[rows] for name, values in columns.items()}


def sample(rows: int, limit: int, seed: int) -> NDArray[np.int64]:
    """At most about `limit` of so many rows, evenly and always the same."""
    if rows <= limit:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:limit])


def fit(
    x: Floats, y: Floats, objective: str, alpha: float, trees: int, leaves: int, seed: int, rate: float = 0.06
) -> Model:
    """One model of y from rows x [rows, features]."""
    import lightgbm

    params: dict[str, Any] = {
        "objective": objective,
        "alpha": alpha,
        "num_leaves": leaves,
        "learning_rate": rate,
        "min_data_in_leaf": int(np.clip(len(y) / 400, 4, 30)),
        "feature_fraction": 0.6,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "max_bin": 63,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }
    booster = lightgbm.train(params, lightgbm.Dataset(x.astype(np.float32), y), trees)
    return Model(compact_text(booster.model_to_string(num_iteration=-1)))


def three(x: Floats, r: Floats, trees: int, leaves: int, seed: int) -> list[Model]:
    """Median and 10 / 90 % quantiles of the residual."""
    return [fit(x, r, "l1", 0.5, trees, leaves, seed), *tails(x, r, trees, seed)]


def tails(x: Floats, r: Floats, trees: int, seed: int) -> list[Model]:
    """10 and 90 % quantiles of the residual."""
    trees = max(40, trees // 5)
    some = sample(len(r), _QUANTILE_ROWS, seed)
    return [fit(x[some], r[some], "quantile", alpha, trees, 24, seed, 0.1) for alpha in (0.1, 0.9)]


def quantiles(models: Sequence[Model], x: Floats) -> tuple[Floats, Floats, Floats]:
    """(median, width below, width above) of models as `three` makes them."""
    median, lower, upper = (m.predict(x) for m in models)
    return median, np.maximum(_NARROWEST, median - lower), np.maximum(_NARROWEST, upper - median)


def stretch_of(error: Floats, low: Floats, high: Floats) -> tuple[float, float]:
    """(factor, addend) that make [m - low, m + high] hold COVERAGE of held-out errors (truth - median)."""
    if len(error) < _FEW:
        return 1.5, 0.01
    level = min(1.0, COVERAGE * (len(error) + 1) / len(error))  # split conformal: one more row is to come
    need = np.maximum(error / high, -error / low)
    factor = float(np.quantile(np.maximum(need, 0.0), level))
    if factor <= 1.8:
        return max(0.05, factor), 0.0
    # The quantile models saw residuals much smaller than held-out ones: mostly a constant is missing.
    extra = np.maximum(np.maximum(error - high, -error - low), 0.0)
    return 1.0, float(np.quantile(extra, level))


def stretch_by_group(error: Floats, low: Floats, high: Floats, group: NDArray[np.int64]) -> tuple[float, float, float]:
    """(factor, addend, coverage): intervals that hold COVERAGE of a group that none of their errors came from.

    Errors within a group (a held-out region, say) are alike, so what the other groups ask for is too narrow for a new
    one. By how much is seen by leaving out each in turn; the coverage counts each with what the others say of that.
    """
    need = np.empty(len(error))
    known = np.zeros(len(error), bool)  # whose others are enough to learn from
    groups = np.unique(group)
    for g in groups:
        here = group == g
        factor, extra = stretch_of(error[~here], low[~here], high[~here])
        above, below = error[here] / (high[here] * factor + extra), -error[here] / (low[here] * factor + extra)
        need[here] = np.maximum(above, below)
        known[here] = np.count_nonzero(~here) >= _FEW
    inside = np.zeros(len(error), bool)
    for g in groups:
        here = group == g
        inside[here] = need[here] <= _widening(need[known & ~here])
    factor, extra = stretch_of(error, low, high)
    wider = _widening(need[known])
    return factor * wider, extra * wider, float(inside.mean())


def _widening(need: Floats) -> float:
    return max(1.0, float(np.quantile(need, COVERAGE))) if len(need) else 1.0


def errors(error: Floats) -> dict[str, float]:
    """Median, mean and 90th percentile of |prediction / truth - 1| in percent, of rows with log(truth / prediction)."""
    if not len(error):
        return {}
    percent = 100.0 * np.abs(np.expm1(-error))
    return {
        "rows": len(error),
        "median": round(float(np.median(percent)), 3),
        "mean": round(float(percent.mean()), 3),
        "p90": round(float(np.quantile(percent, 0.9)), 3),
    }
