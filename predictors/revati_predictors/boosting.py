"""LightGBM models as compact text, and their evaluation.

Only what prediction needs stays in the text (no gains, counts or weights of inner nodes, few digits), so that packs
stay small; LightGBM itself loads and evaluates them.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Model", "compact_text"]

_DROP = (
    "split_gain",
    "internal_value",
    "internal_weight",
    "internal_count",
    "leaf_weight",
    "leaf_count",
    "feature_infos",
    "feature_names",
    "monotone_constraints",
)
_NUMBERS = ("threshold", "leaf_value")


def compact_text(text: str) -> str:
    """A model's text without what only training and inspection need."""
    body = text.split("\nend of trees")[0]
    out = []
    features = int(re.search(r"max_feature_idx=(\d+)", body).group(1)) + 1  # type: ignore[union-attr]
    for line in body.split("\n"):
        name, _, value = line.partition("=")
        if name == "tree_sizes" or name in _DROP:
            if name == "feature_names":
                out.append("feature_names=" + " ".join(f"f{i}" for i in range(features)))
            elif name == "feature_infos":
                out.append("feature_infos=" + " ".join(["none"] * features))
            continue
        if name in _NUMBERS:
            digits = 7 if name == "threshold" else 5
            line = name + "=" + " ".join(f"{float(v):.{digits}g}" for v in value.split(" "))
        out.append(line)
    return "\n".join(out) + "\nend of trees\n"


class _Trees:
    """The same trees in numpy, for installations without LightGBM (or without the OpenMP library that it needs)."""

    def __init__(self, text: str) -> None:
        trees = [_fields(part) for part in text.split("\nTree=")[1:]]
        self._leaves = [np.array(t["leaf_value"].split(), float) for t in trees]
        self._splits = [_splits(t) for t in trees]
        self.features = int(_fields(text.split("\nTree=")[0])["max_feature_idx"]) + 1

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros(len(matrix))
        rows = np.arange(len(matrix))
        for leaves, splits in zip(self._leaves, self._splits):
            if splits is None:
                total += leaves[0]
                continue
            feature, threshold, default_left, missing_nan, left, right = splits
            node = np.zeros(len(matrix), np.int64)
            active = rows
            while len(active):
                at = node[active]
                value = matrix[active, feature[at]]
                lost = np.isnan(value)
                goes_left = np.where(lost & ~missing_nan[at], 0.0, value) <= threshold[at]
                goes_left = np.where(lost & missing_nan[at], default_left[at], goes_left)
                node[active] = np.where(goes_left, left[at], right[at])
                active = active[node[active] >= 0]
            total += leaves[~node]
        return total


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


def _splits(tree: dict[str, str]) -> tuple[NDArray[Any], ...] | None:
    """(feature, threshold, default left, NaN is missing, left child, right child); None for a single leaf."""
    if "split_feature" not in tree:
        return None
    decision = np.array(tree["decision_type"].split(), int)
    return (
        np.array(tree["split_feature"].split(), int),
        np.array(tree["threshold"].split(), float),
        (decision & 2) > 0,
        (decision & 12) == 8,
        np.array(tree["left_child"].split(), int),
        np.array(tree["right_child"].split(), int),
    )


class Model:
    """One LightGBM model, parsed when first used. Single rows take LightGBM's fast path."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._booster: Any = None
        self._fast = ctypes.c_void_p()

    def _load(self) -> Any:
        if self._booster is None:
            try:
                import lightgbm  # here: the roofline and the service must not pay for the import
            except (ImportError, OSError):
                self._booster = _Trees(self.text)
                return self._booster
            self._booster = lightgbm.Booster(model_str=self.text)
            self._columns = self._booster.num_feature()
            self._fast = ctypes.c_void_p()
            self._out = np.zeros(1)
            self._length = ctypes.c_int64()
            self._library = lightgbm.basic._LIB
            status = self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._booster._handle,
                0,
                0,
                -1,
                1,
                ctypes.c_int32(self._columns),
                b"num_threads=1",
                ctypes.byref(self._fast),
            )
            if status != 0:
                self._fast = ctypes.c_void_p()
        return self._booster

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores of rows [rows, features]."""
        booster = self._load()
        if len(matrix) == 1 and self._fast:
            row = np.ascontiguousarray(matrix[0], np.float64)
            self._library.LGBM_BoosterPredictForMatSingleRowFast(
                self._fast,
                ctypes.c_void_p(row.ctypes.data),
                ctypes.byref(self._length),
                ctypes.c_void_p(self._out.ctypes.data),
            )
            return np.array(self._out)
        if isinstance(booster, _Trees):
            return booster.predict(matrix)
        return np.asarray(booster.predict(matrix, num_threads=1, validate_features=False))
