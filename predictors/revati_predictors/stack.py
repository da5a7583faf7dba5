"""Features from measured neighbours, relative to a base estimate; the learned part predicts what the base misses.

hole features    a missing node of a known configuration: its lines on every axis, parallelograms of two axes, and the
                 same node of similar configurations (training completes the table with these)
config features  a configuration that was never measured: only similar configurations (used at run time too)
apart features   what has no measured relatives: physics alone (used at run time too)
size features    a size between the nodes of the completed table (used at run time too)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors.families import Columns, Family, Key
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ABSENT, Grid
from revati_predictors.law import Law, law_us

__all__ = ["Slots", "apart_features", "config_features", "hole_features", "key_columns", "matrix", "size_features"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def key_columns(family: Family, columns: Columns) -> list[Key]:
    """The configuration of every row."""
    parts = [columns[c].tolist() for c in family.config]
    return list(zip(*parts))


def _at(config: Ints, nodes: Sequence[Ints]) -> tuple[Ints, ...]:
    return (config, *nodes)


def _mean(values: Sequence[Floats]) -> Floats:
    """The mean of what is known in each row; NaN, which the caller fills, where nothing is. As nanmean, but faster."""
    lost = np.isnan(values)
    total = np.where(lost, 0.0, values).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / (len(values) - lost.sum(axis=0)))


def _first(values: Sequence[Floats]) -> Floats:
    """The first known value of each row, else 0 (the roofline itself)."""
    out = values[0]
    for value in values[1:]:
        out = np.where(np.isnan(out), value, out)
    return np.where(np.isnan(out), 0.0, out)


class Slots:
    """The slots of configurations, resolved once per distinct configuration."""

    def __init__(self, family: Family, grid: Grid) -> None:
        self._family, self._grid = family, grid
        self._memo: dict[Key, tuple[list[int], list[tuple[float, ...]]]] = {}
        self.count = len(family.slots(grid.configs[0], grid.index)) if grid.configs else 0

    def of(self, keys: Sequence[Key]) -> tuple[Ints, Floats]:
        """(configuration index [rows, slots], axis factors [rows, slots, axes])."""
        axes = len(self._family.axes)
        ids = np.full((len(keys), self.count), ABSENT, np.int64)
        factors = np.ones((len(keys), self.count, axes))
        distinct: dict[Key, list[int]] = {}
        for row, key in enumerate(keys):
            distinct.setdefault(key, []).append(row)
        for key, rows in distinct.items():
            if self.count and key not in self._memo:
                slots = self._family.slots(key, self._grid.index)
                self._memo[key] = (
                    [self._grid.index[s[0]] if s else ABSENT for s in slots],
                    [s[1] if s else (1.0,) * axes for s in slots],
                )
            if self.count:
                ids[rows], factors[rows] = self._memo[key]
        return ids, factors


def hole_features(
    family: Family,
    gpu: Gpu,
    grid: Grid,
    beside: Sequence[tuple[Any, Any]],
    slots: Slots,
    columns: Columns,
    masked: NDArray[np.bool_],
    residual: Grid | None = None,
    prior: Floats | None = None,
) -> tuple[dict[str, Floats], Floats]:
    """Features of rows on nodes and the base estimate of y. `masked` rows do not see their line on `mask_axis`.

    residual: the same grid holding y less a prior estimate, whose value at the rows themselves is `prior`. What the
    prior explains (tiles, waves, a change of kernel between two nodes) does not disturb the neighbours' average there.
    """
    out, base = _neighbours(family, grid, beside, slots, columns, masked)
    if residual is not None and prior is not None:
        left, left_base = _neighbours(family, residual, beside, slots, columns, masked)
        out.update({f"left_{name}": value for name, value in left.items() if not name.startswith("gap")})
        out["prior"] = prior
        out["prior_and_left"] = prior + left_base - base
    out["base"] = base
    out.update(family.physics(gpu, columns))
    return out, base


def _neighbours(
    family: Family,
    grid: Grid,
    beside: Sequence[tuple[Any, Any]],
    slots: Slots,
    columns: Columns,
    masked: NDArray[np.bool_],
) -> tuple[dict[str, Floats], Floats]:
    """What the neighbours of rows on nodes hold, relative to a base estimate, and that estimate."""
    keys = key_columns(family, columns)
    config = grid.config_ids(keys)
    coordinates = [np.asarray(columns[a], float) for a in family.axes]
    nodes, _ = grid.nodes(coordinates)
    axes = range(len(family.axes))
    out: dict[str, Floats] = {}
    near: list[tuple[Ints, Ints]] = []
    lines: list[Floats] = []
    hidden: set[str] = set()

    def moved(changes: dict[int, Ints]) -> list[Ints]:
        return [changes.get(a, nodes[a]) for a in axes]

    for a in axes:
        before, after = (np.asarray(b[_at(config, nodes)], np.int64) for b in beside[a])
        last = len(grid.axes[a]) - 1
        safe_before, safe_after = np.maximum(before, 0), np.minimum(after, last)
        before_2 = np.where(before >= 0, beside[a][0][_at(config, moved({a: safe_before}))], -1).astype(np.int64)
        after_2 = np.where(after <= last, beside[a][1][_at(config, moved({a: safe_after}))], last + 1).astype(np.int64)
        y_before, y_after = grid.at(config, moved({a: before})), grid.at(config, moved({a: after}))
        x = grid.x[a][nodes[a]]
        gap_before = np.where(before >= 0, x - grid.x[a][safe_before], np.nan)
        gap_after = np.where(after <= last, grid.x[a][safe_after] - x, np.nan)
        t = gap_before / (gap_before + gap_after)
        line = np.where(
            np.isnan(y_before), y_after, np.where(np.isnan(y_after), y_before, y_before * (1 - t) + y_after * t)
        )
        names = {
            f"before_{a}": y_before,
            f"after_{a}": y_after,
            f"before2_{a}": grid.at(config, moved({a: before_2})),
            f"after2_{a}": grid.at(config, moved({a: after_2})),
            f"line_{a}": line,
            f"gap_before_{a}": gap_before,
            f"gap_after_{a}": gap_after,
        }
        out.update(names)
        if a == family.mask_axis:
            hidden |= set(names)
        near.append((before, after))
        lines.append(line)
    for a in axes:
        for b in range(a + 1, len(family.axes)):
            corners = [
                grid.at(config, moved({a: i})) + grid.at(config, moved({b: j})) - grid.at(config, moved({a: i, b: j}))
                for i in near[a]
                for j in near[b]
            ]
            out[f"parallelogram_{a}{b}"] = _mean(corners)
            if family.mask_axis in (a, b):
                hidden.add(f"parallelogram_{a}{b}")
    ids, factors = slots.of(keys)
    for s in range(slots.count):
        shifted = [np.searchsorted(grid.axes[a], coordinates[a] * factors[:, s, a]) for a in axes]
        exact = np.ones(len(config), bool)
        for a in axes:
            exact &= grid.axes[a][np.minimum(shifted[a], len(grid.axes[a]) - 1)] == coordinates[a] * factors[:, s, a]
        other = np.where(exact, ids[:, s], ABSENT)
        out[f"slot_{s}"] = grid.at(other, shifted)
        # How this configuration differed from the similar one at the neighbouring nodes of the last axis.
        a = len(family.axes) - 1
        steps = []
        for i in near[a]:
            there = list(shifted)
            there[a] = shifted[a] + (i - nodes[a])
            steps.append(grid.at(config, moved({a: i})) + out[f"slot_{s}"] - grid.at(other, there))
        out[f"slot_step_{s}"] = _mean(steps)
    if masked.any():
        for name in hidden:
            out[name] = np.where(masked, np.nan, out[name])
    base = _hole_base(family, out)
    for name in out:
        if not name.startswith("gap"):
            out[name] = out[name] - base
    return out, base


def _hole_base(family: Family, out: dict[str, Floats]) -> Floats:
    first = [out[f"line_{a}"] for a in range(len(family.axes))]
    crossed = [value for name, value in out.items() if name.startswith("parallelogram")]
    everything = _mean([_mean(first[:1] if family.mask_axis == 0 else first), *crossed])
    slots = [value for name, value in out.items() if name.startswith("slot_")]
    return _first([everything, _mean(first), _mean(slots)] if slots else [everything, _mean(first)])


def _slot_values(family: Family, grid: Grid, slots: Slots, columns: Columns) -> list[Floats]:
    keys = key_columns(family, columns)
    coordinates = [np.asarray(columns[a], float) for a in family.axes]
    ids, factors = slots.of(keys)
    count = family.strict_slots
    at = [(c * factors[:, :count, a].T).ravel() for a, c in enumerate(coordinates)]
    return list(grid.interpolate(ids[:, :count].T.ravel(), at).reshape(count, len(keys)))


def config_features(
    family: Family, gpu: Gpu, grid: Grid, slots: Slots, columns: Columns
) -> tuple[dict[str, Floats], Floats]:
    """Features of rows whose configuration is not in the (completed) grid, and the base estimate of y."""
    physics = family.physics(gpu, columns)
    if not family.strict_slots:
        return physics, np.zeros(len(next(iter(physics.values()))))
    values = _slot_values(family, grid, slots, columns)
    pairs = [_mean(values[i : i + 2]) for i in range(0, len(values), 2)]
    base = _first(pairs)
    out = {f"slot_{s}": value - base for s, value in enumerate(values)}
    out["base"] = base
    out.update(physics)
    return out, base


def apart_features(family: Family, gpu: Gpu, columns: Columns, law: Law | None) -> tuple[dict[str, Floats], Floats]:
    """Features of rows without any measured relative, and the base estimate of y: the law where there is one."""
    if law is None or family.terms is None or family.apart is None:
        return family.physics(gpu, columns), np.zeros(len(next(iter(columns.values()))))
    terms = family.terms(gpu, columns)
    us = law_us(terms, columns["dtype"], law)
    return family.apart(gpu, columns, terms), np.log(us / family.roofline_us(gpu, columns))


def size_features(
    family: Family, gpu: Gpu, grid: Grid, columns: Columns, skip_own: NDArray[np.bool_] | None = None
) -> tuple[dict[str, Floats], Floats]:
    """Features of rows between nodes of a known configuration, and the base estimate (multilinear).

    skip_own [rows, axes]: for training on nodes, as if the planes of the row's own coordinates were missing.
    """
    config = grid.config_ids(key_columns(family, columns))
    coordinates = [np.asarray(columns[a], float) for a in family.axes]
    base = grid.interpolate(config, coordinates, skip_own)
    out: dict[str, Floats] = {"base": base}
    for a, (axis, x) in enumerate(zip(grid.axes, grid.x)):
        at = np.log2(coordinates[a] + 1.0)
        own = np.searchsorted(axis, coordinates[a])
        exact = axis[np.minimum(own, len(axis) - 1)] == coordinates[a]
        if skip_own is not None:
            exact = exact & ~skip_own[:, a]
        step = 0 if skip_own is None else 1
        low = x[np.maximum(np.minimum(own - 1, len(axis) - 1), 0)]
        high = x[np.minimum(own + step, len(axis) - 1)]
        out[f"gap_low_{a}"] = np.where(exact, 0.0, at - low)
        out[f"gap_high_{a}"] = np.where(exact, 0.0, high - at)
    out.update(family.physics(gpu, columns))
    return out, base


def matrix(features: dict[str, Floats]) -> Floats:
    """Features as LightGBM wants them [rows, features], in the order in which they were computed."""
    return np.column_stack(list(features.values()))


def far_features(family: Family, gpu: Gpu, grid: Grid, columns: Columns) -> tuple[dict[str, Floats], Floats]:
    """Features of rows on the last axis's far side from nodes with fewer keys, and the base estimate of y."""
    config = grid.config_ids(key_columns(family, columns))
    coordinates = [np.asarray(columns[a], float) for a in family.axes]
    values = []
    for factors in family.far:
        at = [c * f for c, f in zip(coordinates, factors)]
        inside = np.ones(len(config), bool)
        for c, axis in zip(at, grid.axes):
            inside &= (c >= axis[0]) & (c <= axis[-1])
        values.append(np.where(inside, grid.interpolate(config, at), np.nan))
    # One octave down, the diagonal neighbour differed by as much.
    step = values[0] + values[2] - values[3]
    base = _first([_mean([step, values[2]]), values[2], values[0]])
    out = {f"far_{i}": v - base for i, v in enumerate(values)}
    out["far_step"] = step - base
    out["base"] = base
    out.update(family.physics(gpu, columns))
    return out, base
