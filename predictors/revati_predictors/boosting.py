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


class Model:
    """One LightGBM model, parsed when first used. Single rows take LightGBM's fast path."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._booster: Any = None

    def _load(self) -> Any:
        if self._booster is None:
            import lightgbm  # here: the roofline and the service must not pay for the import

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
        return np.asarray(booster.predict(matrix, num_threads=1, validate_features=False))
