"""A physical law of an operator: its duration as a sum of parts, each with a factor that the table tells.

Trees know nothing beyond the models of their table; a sum of bytes, tiles and launches with fitted factors does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors.families import Columns, Family
from revati_predictors.fitting import sample, take
from revati_predictors.gpus import Gpu

__all__ = ["Law", "fit_law", "law_us"]

Floats = NDArray[np.float64]
Law = Mapping[str, Sequence[float]]  # factors of the terms by data type; "" is of all of them together
_ROWS = 4000
_ROUNDS = 6
_OUTLIER = 0.05  # log error from which a row counts less
_LEAST_MODELS = 3  # below which a data type's factors would tell its models, not the card


def law_us(terms: Floats, dtypes: NDArray[Any], law: Law) -> Floats:
    """The law's durations of rows from their terms [rows, terms]."""
    us = np.empty(len(terms))
    for dtype in dict.fromkeys(dtypes.tolist()):
        rows = dtypes == dtype
        us[rows] = (terms[rows] * np.asarray(law.get(dtype, law[""]))).sum(axis=1)
    return np.maximum(us, 1.0)


def fit_law(
    family: Family, gpu: Gpu, columns: Columns, us: Floats, models: Sequence[str], seed: int
) -> dict[str, list[float]]:
    """The factors from rows that took `us`; `models`: the columns that tell one model from another."""
    parts: dict[str, NDArray[Any]] = {"": np.arange(len(us))}
    for dtype in dict.fromkeys(columns["dtype"].tolist()):
        rows = np.flatnonzero(columns["dtype"] == dtype)
        if len(set(zip(*(columns[name][rows].tolist() for name in models)))) >= _LEAST_MODELS:
            parts[dtype] = rows
    out = {}
    assert family.terms is not None
    for dtype, rows in parts.items():
        rows = rows[sample(len(rows), _ROWS, seed)]
        out[dtype] = _factors(family.terms(gpu, take(columns, rows)), us[rows])
    return out


def _factors(terms: Floats, us: Floats) -> list[float]:
    """Least relative error, reweighted from squares towards absolute values of the log error; none negative."""
    from scipy.optimize import nnls

    relative = terms / us[:, None]
    weight = np.ones(len(us))
    factors = np.zeros(terms.shape[1])
    for _ in range(_ROUNDS):
        factors, _ = nnls(relative * weight[:, None], weight)
        error = np.abs(np.log(np.maximum(relative @ factors, 1e-3)))
        weight = 1.0 / np.sqrt(np.maximum(error, _OUTLIER))
    return [float(f"{factor:.6g}") for factor in factors]
