"""A measured table as a dense array: configurations x axes, holding log(measured / roofline).

Neighbours along an axis, neighbours in configuration space, and multilinear interpolation between nodes are all
gathers in that array. The trainer uses them leaving each row itself out; the runtime uses them on the completed array.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ABSENT", "ConfigIndex", "Grid"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ABSENT = -1


class ConfigIndex(dict[tuple[Any, ...], int]):
    """Configurations by their tuples, with look-up of those that differ in one column only."""

    def __init__(self, configs: Sequence[tuple[Any, ...]]) -> None:
        super().__init__((c, i) for i, c in enumerate(configs))
        self._lines: dict[int, dict[tuple[Any, ...], list[tuple[Any, ...]]]] = {}

    def next_to(self, key: tuple[Any, ...], column: int, up: bool) -> tuple[Any, ...] | None:
        """The configuration that differs from `key` only in this column, nearest above or below."""
        if column not in self._lines:
            lines: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
            for config in self:
                lines.setdefault(config[:column] + config[column + 1 :], []).append(config)
            self._lines[column] = lines
        line = self._lines[column].get(key[:column] + key[column + 1 :], ())
        side = [c for c in line if (c[column] > key[column] if up else c[column] < key[column])]
        if not side:
            return None
        return (min if up else max)(side, key=lambda c: c[column])


class Grid:
    """Dense array of y over (configuration, axis 1, ..., axis d); NaN where nothing is known.

    axes: sorted distinct values of each axis. configs: tuples of equal length. Coordinates between nodes are
    log2(value + 1), which keeps zero (no prefill, no decode) on the axis.
    """

    def __init__(self, configs: Sequence[tuple[Any, ...]], axes: Sequence[Floats], y: NDArray[np.float32]) -> None:
        self.configs = list(configs)
        self.axes = [np.asarray(a, float) for a in axes]
        self.x = [np.log2(a + 1.0) for a in self.axes]
        self.y = y
        self.index = ConfigIndex(self.configs)
        assert y.shape == (len(self.configs), *(len(a) for a in self.axes))

    @classmethod
    def from_rows(cls, keys: Sequence[tuple[Any, ...]], coordinates: Sequence[Floats], y: Floats) -> Grid:
        """A grid from rows; `keys` is each row's configuration. Rows of one node: their mean."""
        configs = sorted(set(keys), key=repr)
        index = {c: i for i, c in enumerate(configs)}
        axes = [np.unique(c) for c in coordinates]
        dense = np.full((len(configs), *(len(a) for a in axes)), np.nan, np.float32)
        c = np.array([index[k] for k in keys])
        where = (c, *(np.searchsorted(a, v) for a, v in zip(axes, coordinates)))
        flat = np.ravel_multi_index(where, dense.shape)
        counts = np.bincount(flat, minlength=dense.size)
        sums = np.bincount(flat, weights=y, minlength=dense.size)
        known = counts > 0
        dense.ravel()[known] = sums[known] / counts[known]
        return cls(configs, axes, dense)

    def config_ids(self, keys: Sequence[tuple[Any, ...]]) -> Ints:
        """The index of each configuration, ABSENT if it is not in the table."""
        get = self.index.get
        return np.fromiter((get(k, ABSENT) for k in keys), np.int64, len(keys))

    def nodes(self, coordinates: Sequence[Floats]) -> tuple[list[Ints], NDArray[np.bool_]]:
        """(node indices, whether every coordinate is exactly on a node); indices are of the node at or below."""
        out: list[Ints] = []
        exact = np.ones(len(coordinates[0]), bool)
        for axis, values in zip(self.axes, coordinates):
            i = np.maximum(np.searchsorted(axis, values, "right") - 1, 0)
            exact &= axis[i] == values
            out.append(i)
        return out, exact

    def at(self, config: Ints, nodes: Sequence[Ints]) -> Floats:
        """y at nodes; NaN where an index is outside or the configuration is ABSENT."""
        ok = config >= 0
        for axis, i in zip(self.axes, nodes):
            ok = ok & (i >= 0) & (i < len(axis))
        out = np.full(len(config), np.nan)
        if ok.all():
            everything = (config, *nodes)
            out[:] = self.y[everything]
        elif ok.any():
            known = (config[ok], *(i[ok] for i in nodes))
            out[ok] = self.y[known]
        return out

    def beside(self, axis: int) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """For every node, the index of the known node strictly before and after it on this axis (-1, L if none)."""
        dim = axis + 1
        length = self.y.shape[dim]
        known = ~np.isnan(self.y)
        position = np.arange(length, dtype=np.int16).reshape([-1 if a == dim else 1 for a in range(self.y.ndim)])
        at_or_before = np.maximum.accumulate(np.where(known, position, np.int16(-1)), dim)
        at_or_after = np.flip(
            np.minimum.accumulate(np.flip(np.where(known, position, np.int16(length)), dim), dim), dim
        )
        before, after = np.full_like(at_or_before, -1), np.full_like(at_or_after, length)
        head: list[Any] = [slice(None)] * self.y.ndim
        tail = list(head)
        head[dim], tail[dim] = slice(None, -1), slice(1, None)
        before[tuple(tail)] = at_or_before[tuple(head)]
        after[tuple(head)] = at_or_after[tuple(tail)]
        return before, after

    def interpolate(
        self, config: Ints, coordinates: Sequence[Floats], skip_own: NDArray[np.bool_] | None = None
    ) -> Floats:
        """Multilinear y in log coordinates, clamped to the box.

        skip_own [rows, axes]: where true, between the nodes one step before and after on that axis, as if the row's own
        plane were missing (NaN at the edges): what the trainer shows the model of an unmeasured size.
        """
        if skip_own is None:
            parts = [slice(at, at + _ROWS_AT_ONCE) for at in range(0, len(config), _ROWS_AT_ONCE)] or [slice(0)]
            return np.concatenate([self._interpolate(config[part], [c[part] for c in coordinates]) for part in parts])
        n = len(config)
        total, weight = np.zeros(n), np.zeros(n)
        sides = []
        for a, (axis, x, values) in enumerate(zip(self.axes, self.x, coordinates)):
            last = len(axis) - 1
            at = np.log2(values + 1.0)
            low = np.clip(np.searchsorted(axis, values, "right") - 1, 0, max(0, last - 1))
            high = np.minimum(low + 1, last)
            own = np.searchsorted(axis, values)
            low = np.where(skip_own[:, a], own - 1, low)
            high = np.where(skip_own[:, a], own + 1, high)
            inside = (low >= 0) & (high <= last)
            low, high = np.clip(low, 0, last), np.clip(high, 0, last)
            span = x[high] - x[low]
            t = np.clip((at - x[low]) / np.where(span > 0, span, 1.0), 0.0, 1.0)
            sides.append((low, high, np.where(inside, t, np.nan)))
        for corner in range(1 << len(sides)):
            w = np.ones(n)
            nodes = []
            for a, (low, high, t) in enumerate(sides):
                upper = bool(corner >> a & 1)
                w = w * (t if upper else 1.0 - t)
                nodes.append(high if upper else low)
            value = self.at(config, nodes)
            use = ~np.isnan(value) & ~(w == 0)
            total += np.where(use, np.where(use, value, 0.0) * w, 0.0)
            weight += np.where(use, w, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(weight > 0.999, total / weight, np.nan)

    def _interpolate(self, config: Ints, coordinates: Sequence[Floats]) -> Floats:
        """`interpolate` without hidden planes: all corners at once."""
        corners = _corners(len(self.axes))
        weight: Any = 1.0
        where: list[Any] = [np.maximum(config, 0)]
        for a, (axis, x, values) in enumerate(zip(self.axes, self.x, coordinates)):
            last = len(axis) - 1
            low = np.maximum(np.minimum(np.searchsorted(axis, values, "right") - 1, max(0, last - 1)), 0)
            high = np.minimum(low + 1, last)
            x_low = x[low]
            span = x[high] - x_low
            t = (np.log2(values + 1.0) - x_low) / np.where(span > 0, span, 1.0)
            t = np.minimum(np.maximum(t, 0.0), 1.0)
            upper = corners[:, a, None]
            weight = weight * np.where(upper, t, 1.0 - t)
            where.append(np.where(upper, high, low))
        value = self.y[tuple(where)].astype(float)
        use = ~(np.isnan(value) | (weight == 0) | (config < 0))
        weight = np.where(use, weight, 0.0)
        # Corner by corner: numpy's own sum has another order where there is one row only.
        total, sums = np.zeros(len(config)), np.zeros(len(config))
        for part, one in zip(np.where(use, value, 0.0) * weight, weight):
            total += part
            sums += one
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(sums > 0.0, total / sums, np.nan)


_ROWS_AT_ONCE = 1 << 16  # bounds memory


@lru_cache(maxsize=8)
def _corners(axes: int) -> NDArray[np.bool_]:
    """[2^axes, axes]: whether a corner is on the upper side of each axis."""
    return np.asarray(np.arange(1 << axes)[:, None] >> np.arange(axes) & 1, bool)
