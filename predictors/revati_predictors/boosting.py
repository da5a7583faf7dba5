"""LightGBM models as compact text, and their evaluation.

Only what prediction needs stays in the text (no gains, counts or weights of inner nodes, few digits), so that packs
stay small; LightGBM loads them as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ensemble", "Forest", "Model", "compact_text"]

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


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


class Forest:
    """Models evaluated together in numpy: all trees of all models descend level by level.

    Bit for bit what LightGBM computes (same comparisons, leaves added in the order of the trees), without its import,
    which takes a second and needs an OpenMP library.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        names = ("feature", "threshold", "decision", "left", "right")
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        leaves: list[NDArray[np.float64]] = []
        roots: list[int] = []
        self._counts = []
        nodes = leaf_count = 0
        for text in texts:
            trees = [_fields(part) for part in text.split("\nTree=")[1:]]
            self._counts.append(len(trees))
            for tree in trees:
                values = np.array(tree["leaf_value"].split(), float)
                if "split_feature" in tree:
                    roots.append(nodes)
                    parts["feature"].append(np.array(tree["split_feature"].split(), int))
                    parts["threshold"].append(np.array(tree["threshold"].split(), float))
                    parts["decision"].append(np.array(tree["decision_type"].split(), int))
                    for side in ("left", "right"):
                        child = np.array(tree[f"{side}_child"].split(), int)
                        parts[side].append(np.where(child >= 0, child + nodes, child - leaf_count))
                    nodes += len(parts["feature"][-1])
                else:
                    roots.append(~leaf_count)
                leaves.append(values)
                leaf_count += len(values)

        def joined(name: str, kind: type) -> NDArray[Any]:
            return np.concatenate(parts[name]) if parts[name] else np.zeros(0, kind)

        self._roots = np.array(roots, np.int64)
        self._leaves = np.concatenate(leaves) if leaves else np.zeros(0)
        self._feature = joined("feature", int)
        self._threshold = joined("threshold", float)
        decision = joined("decision", int)
        self._default_left, self._missing_nan = (decision & 2) > 0, (decision & 12) == 8
        # child[2 node + goes left]: one look-up for both sides.
        self._child = np.column_stack([joined("right", int), joined("left", int)]).ravel().astype(np.int64)

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores [models, rows] of rows [rows, features]."""
        out = np.empty((len(self._counts), len(matrix)))
        step = max(1, _STATES // max(1, len(self._roots)))
        for start in range(0, len(matrix), step):
            out[:, start : start + step] = self._some(np.ascontiguousarray(matrix[start : start + step], np.float64))
        return out

    def _some(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, trees = len(matrix), len(self._roots)
        flat, width = matrix.ravel(), matrix.shape[1]
        node = np.tile(self._roots, rows)
        offset = np.repeat(np.arange(rows) * width, trees)
        active = np.flatnonzero(node >= 0)
        some_missing = bool(np.isnan(flat).any())
        while len(active):
            at = node.take(active)  # take is half the time of indexing
            value = flat.take(offset.take(active) + self._feature.take(at))
            if some_missing:
                lost = np.isnan(value)
                known_nan = lost & self._missing_nan.take(at)
                goes_left = np.where(lost, 0.0, value) <= self._threshold.take(at)
                goes_left = np.where(known_nan, self._default_left.take(at), goes_left)
            else:
                goes_left = value <= self._threshold.take(at)
            following = self._child.take(2 * at + goes_left)
            node[active] = following
            active = active.compress(following >= 0)
        values = self._leaves[~node].reshape(rows, trees)
        out = np.empty((len(self._counts), rows))
        first = 0
        for i, count in enumerate(self._counts):
            # cumsum adds in order, as LightGBM does; sum would add in pairs.
            out[i] = np.cumsum(values[:, first : first + count], axis=1)[:, -1] if count else 0.0
            first += count
        return out


_STATES = 100_000  # tree positions kept at once: bounds memory
_MANY, _VERY_MANY = 2_000, 200_000  # rows from which LightGBM is worth a call, and its import


class Model:
    """One LightGBM model as text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._booster: Any = None

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores of rows [rows, features]; with LightGBM (training and large tables)."""
        if self._booster is None:
            import lightgbm

            self._booster = lightgbm.Booster(model_str=self.text)
        return np.asarray(self._booster.predict(matrix, num_threads=1, validate_features=False))


class Ensemble:
    """The models of one mode, evaluated together: numpy for few rows, LightGBM for many where it is installed."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = list(models)
        self._forest: Forest | None = None

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores [models, rows]."""
        enough = _MANY if "lightgbm" in sys.modules else _VERY_MANY
        if len(matrix) >= enough and _lightgbm_works():
            return np.array([model.predict(matrix) for model in self._models])
        if self._forest is None:
            self._forest = Forest([model.text for model in self._models])
        return self._forest.predict(matrix)


@lru_cache(maxsize=1)
def _lightgbm_works() -> bool:
    try:
        import lightgbm  # noqa: F401
    except (ImportError, OSError):
        return False
    return True
