"""Completing a table's grid: holes from their models, then onwards past the measured staircase and to the corners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors import stack
from revati_predictors.boosting import Model
from revati_predictors.families import Columns, Family
from revati_predictors.fitting import fit, sample, take
from revati_predictors.gpus import Gpu
from revati_predictors.grid import Grid
from revati_predictors.holes import Holes
from revati_predictors.learned import encode_width

__all__ = ["complete", "continue_grid", "fill_lines", "fit_far"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_ENOUGH = 400  # rows below which no model of the far side is worth having
_FAR_ROWS = 20000


def complete(
    holes: Holes, stretch: Mapping[str, tuple[float, float]], beyond: float, far: Model | None = None
) -> tuple[Grid, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """(completed grid, flags 0 measured 1 completed 2 continued, width codes below, above)."""
    family, gpu, grid = holes.family, holes.gpu, holes.grid
    known = ~np.isnan(grid.y)
    covered = _hull(known) & ~known
    y = grid.y.copy()
    flags = np.where(known, 0, 2).astype(np.uint8)
    low = np.full(y.shape, 0.02, np.float32)
    high = low.copy()
    if holes.answers is None:  # asked once for the whole grid, however often it is completed
        index = np.argwhere(covered)
        parts = [index[start : start + 60000] for start in range(0, len(index), 60000)]
        # A node whose line on the masked axis is empty is in a withheld region: the model knows that case.
        holes.answers = [
            (part, *holes.predict(node_columns(family, grid, part), False), holes.unseen) for part in parts
        ]
    for part, median, narrow, wide, empty in holes.answers:
        at = tuple(part.T)
        y[at] = median
        flags[at] = 1
        below, above = narrow.copy(), wide.copy()
        unseen = np.zeros(len(part), bool) if empty is None else empty
        for mode, mask in (("random", ~unseen), ("region", unseen)):
            factor, extra = stretch.get(mode, (1.5, 0.01))
            below[mask], above[mask] = below[mask] * factor + extra, above[mask] * factor + extra
        low[at], high[at] = below, above
    filled = Grid(grid.configs, grid.axes, y)
    if family.extend:
        filled, flags, low, high = _extend(family, filled, flags, low, high)
    steps = continue_grid(family, gpu, filled, far)
    outside = flags == 2
    low[outside] = high[outside] = beyond * np.sqrt(np.maximum(1.0, steps[outside]))
    return filled, flags, encode_width(low), encode_width(high)


def _extend(family: Family, grid: Grid, *arrays: NDArray[Any]) -> tuple[Grid, Any, Any, Any]:
    """The same with more nodes on an axis: not known, flagged as continued."""
    out: list[NDArray[Any]] = [grid.y, *arrays]
    axes = list(grid.axes)
    for name, nodes in family.extend.items():
        a = family.axes.index(name)
        more = np.array([v for v in nodes if v > axes[a][-1]], float)
        axes[a] = np.concatenate([axes[a], more])
        for i, fill in enumerate((np.nan, 2, 0.1, 0.1)):
            shape = list(out[i].shape)
            shape[a + 1] = len(more)
            out[i] = np.concatenate([out[i], np.full(shape, fill, out[i].dtype)], axis=a + 1)
    return Grid(grid.configs, axes, out[0]), out[1], out[2], out[3]


def fit_far(
    family: Family, gpu: Gpu, grid: Grid, columns: Columns, y: Floats, rows: Mask, seed: int, trees: int
) -> Model | None:
    """The model that continues the last axis, from completed nodes with fewer keys."""
    last = np.asarray(columns[family.axes[-1]], float)
    chosen = np.flatnonzero(rows & (last >= 256))
    chosen = chosen[sample(len(chosen), _FAR_ROWS, seed)]
    if not family.far or len(chosen) < _ENOUGH:
        return None
    features, base = stack.far_features(family, gpu, grid, take(columns, chosen))
    return fit(stack.matrix(features), y[chosen] - base, "l1", 0.5, min(200, trees), 31, seed)


def _continue_far(family: Family, gpu: Gpu, grid: Grid, far: Model) -> NDArray[np.float32]:
    """Fill the far side of the last axis octave by octave."""
    steps = np.zeros(grid.y.shape, np.float32)
    for i in range(1, grid.y.shape[-1]):
        todo = np.argwhere(np.isnan(grid.y[..., i]) & ~np.isnan(grid.y[..., i - 1]))
        if not len(todo) or grid.axes[-1][i] < 64:
            continue
        index = np.column_stack([todo, np.full(len(todo), i)])
        features, base = stack.far_features(family, gpu, grid, node_columns(family, grid, index))
        grid.y[tuple(index.T)] = base + far.predict(stack.matrix(features))
        steps[tuple(index.T)] = steps[..., i - 1][tuple(todo.T)] + 1
    return steps


def node_columns(family: Family, grid: Grid, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Columns of nodes [rows, 1 + axes]."""
    out: dict[str, NDArray[Any]] = {}
    for i, name in enumerate(family.config):
        values = np.array([c[i] for c in grid.configs], dtype=object if name in family.text else float)
        out[name] = values[index[:, 0]]
    for a, name in enumerate(family.axes):
        out[name] = grid.axes[a][index[:, 1 + a]]
    if "kv_len" in family.extra:
        out["kv_len"] = out["q_len"]
    elif "q_len" in family.extra:
        out["q_len"] = np.where(out["phase"] == "prefill", out["kv_len"], 1.0)
    return out


def continue_grid(family: Family, gpu: Gpu, grid: Grid, far: Model | None = None) -> NDArray[np.float32]:
    """Fill what is left: upwards in time along the roofline, downwards with the nearest ratio. Steps per node."""
    first = _continue_far(family, gpu, grid, far) if far is not None else None
    unknown = np.argwhere(np.isnan(grid.y))
    steps = first if first is not None else np.zeros(grid.y.shape, np.float32)
    if not len(unknown):
        return steps
    everything = np.indices(grid.y.shape).reshape(grid.y.ndim, -1).T
    flat = np.empty(len(everything))
    for start in range(0, len(everything), 200000):
        part = everything[start : start + 200000]
        flat[start : start + 200000] = family.roofline_us(gpu, node_columns(family, grid, part))
    roof = flat.reshape(grid.y.shape)
    for dim in sorted(range(1, grid.y.ndim), key=lambda d: -grid.y.shape[d]):
        y, r, s = (np.moveaxis(a, dim, 0) for a in (grid.y, roof, steps))
        for i in range(1, len(y)):
            todo = np.isnan(y[i]) & ~np.isnan(y[i - 1])
            if not todo.any():
                continue
            t1 = np.exp(y[i - 1]) * r[i - 1]
            j = max(0, i - 2)
            t0 = np.where(np.isnan(y[j]), t1, np.exp(np.nan_to_num(y[j])) * r[j])
            ratio = t1 / r[i - 1]
            grown = r[i - 1] - r[j]
            slope = np.clip(
                np.where(grown > 1e-9, (t1 - t0) / np.where(grown > 1e-9, grown, 1.0), ratio),
                0.5 * ratio,
                2 * ratio,
            )
            us = np.where(r[i] > r[i - 1], t1 + slope * (r[i] - r[i - 1]), ratio * r[i])
            y[i][todo] = np.log(us / r[i])[todo]
            s[i][todo] = s[i - 1][todo] + 1
        for i in range(len(y) - 2, -1, -1):
            todo = np.isnan(y[i]) & ~np.isnan(y[i + 1])
            y[i][todo] = y[i + 1][todo]
            s[i][todo] = s[i + 1][todo] + 1
    grid.y[np.isnan(grid.y)] = 0.0
    return steps


def _hull(known: Mask) -> Mask:
    """Nodes with a measured node at or below and one at or above on every axis, for each configuration."""
    below, above = known.copy(), known.copy()
    for dim in range(1, known.ndim):
        below = np.maximum.accumulate(below, dim)
        above = np.flip(np.maximum.accumulate(np.flip(above, dim), dim), dim)
    return np.asarray(below & above, bool)


def fill_lines(grid: Grid) -> None:
    """Fill missing nodes with the mean of linear interpolation along the axes."""
    estimates = []
    index = np.indices(grid.y.shape)
    for a in range(grid.y.ndim - 1):
        before, after = grid.beside(a)
        length = grid.y.shape[a + 1]
        values = []
        for near, ok in ((np.maximum(before, 0), before >= 0), (np.minimum(after, length - 1), after < length)):
            at: list[NDArray[Any]] = list(index)
            at[a + 1] = near.astype(np.int64)
            values.append(np.where(ok, grid.y[tuple(at)], np.nan))
        estimates.append((values[0] + values[1]) / 2)
    known = ~np.isnan(np.array(estimates))
    total = np.where(known, np.nan_to_num(np.array(estimates)), 0.0).sum(axis=0)
    count = known.sum(axis=0)
    fill = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    grid.y = np.where(np.isnan(grid.y), fill, grid.y).astype(np.float32)
