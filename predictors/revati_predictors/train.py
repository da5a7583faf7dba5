"""From one measured table to one section: complete the table, learn what it does not hold, and measure both.

Held out for the figures and for calibrating the intervals: shapes at random (all data types of a shape together) and
whole regions (unseen (n, k), heads, MoE models). The shipped section is then trained on every row.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors import stack
from revati_predictors.boosting import Model, compact_text
from revati_predictors.families import Columns, Family
from revati_predictors.gpus import Gpu
from revati_predictors.grid import Grid
from revati_predictors.learned import Section, encode_width

__all__ = ["Trained", "split_hash", "train_measured", "train_section"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
HELD_SHAPES, HELD_REGIONS = 0.12, 0.12
COVERAGE = 0.805  # aim of the 80 % interval on held-out rows, between the 75 and 88 % that are promised
_QUANTILE_ROWS, _REGION_ROWS = 15000, 20000  # more rows change these models little and cost minutes
_ENOUGH = 400  # rows below which a learned residual is not worth having


@dataclass
class Trained:
    """A section and what the report says about it. `rows` holds held-out rows for the plots."""

    section: Section
    report: dict[str, Any]
    rows: dict[str, NDArray[Any]]


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


def _take(columns: Columns, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in columns.items()}


def _fit(
    x: Floats, y: Floats, objective: str, alpha: float, trees: int, leaves: int, seed: int, rate: float = 0.06
) -> Model:
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


def _sample(rows: int, limit: int, seed: int) -> NDArray[np.int64]:
    """At most about `limit` of so many rows, evenly and always the same."""
    if rows <= limit:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:limit])


def _three(x: Floats, r: Floats, trees: int, leaves: int, seed: int) -> list[Model]:
    """Median and 10 / 90 % quantiles of the residual."""
    quantile_trees = max(40, trees // 5)
    some = _sample(len(r), _QUANTILE_ROWS, seed)
    return [
        _fit(x, r, "l1", 0.5, trees, leaves, seed),
        _fit(x[some], r[some], "quantile", 0.1, quantile_trees, 24, seed, 0.1),
        _fit(x[some], r[some], "quantile", 0.9, quantile_trees, 24, seed, 0.1),
    ]


def _quantiles(models: Sequence[Model], x: Floats) -> tuple[Floats, Floats, Floats]:
    median, lower, upper = (m.predict(x) for m in models)
    return median, np.maximum(0.002, median - lower), np.maximum(0.002, upper - median)


def _stretch(error: Floats, low: Floats, high: Floats, groups: NDArray[Any] | None = None) -> tuple[float, float]:
    """(factor, addend) that make [m - low, m + high] hold COVERAGE of held-out errors (truth - median)."""
    del groups
    if len(error) < 20:
        return 1.5, 0.01
    need = np.maximum(error / high, -error / low)
    factor = float(np.quantile(np.maximum(need, 0.0), COVERAGE))
    if factor <= 1.8:
        return max(0.2, factor), 0.0
    # The quantile models saw residuals much smaller than held-out ones: mostly a constant is missing.
    extra = np.maximum(np.maximum(error - high, -error - low), 0.0)
    return 1.0, float(np.quantile(extra, COVERAGE))


def _errors(error: Floats) -> dict[str, float]:
    """Median, mean and 90th percentile of the absolute error in percent of rows with log errors."""
    if not len(error):
        return {}
    percent = 100.0 * np.abs(np.expm1(error))
    return {
        "rows": len(error),
        "median": round(float(np.median(percent)), 3),
        "mean": round(float(percent.mean()), 3),
        "p90": round(float(np.quantile(percent, 0.9)), 3),
    }


class _Trainer:
    def __init__(self, family: Family, gpu: Gpu, columns: Columns, seed: int, trees: int) -> None:
        self.family, self.gpu, self.seed, self.trees = family, gpu, seed, trees
        self.columns = {c: v for c, v in columns.items() if c != "us"}
        self.us = np.asarray(columns["us"], float)
        self.y = np.log(self.us / family.roofline_us(gpu, self.columns))
        self.report: dict[str, Any] = {}
        self.rows: dict[str, NDArray[Any]] = {}
        shape = [c for c in (*family.config, *family.axes, *family.extra) if c not in family.shape_ignores]
        self.held = split_hash(self.columns, shape, seed) < HELD_SHAPES
        self.region = np.zeros(len(self.y), bool)
        if family.region:
            self.region = split_hash(self.columns, family.region, seed + 1) < HELD_REGIONS
            if self.region.mean() > 0.4 or not self.region.any():
                self.region[:] = False
        self.held &= ~self.region

    # --- a table without a grid --------------------------------------------------------------------------------

    def without_grid(self) -> Section:
        x = stack.matrix(self.family.physics(self.gpu, self.columns))
        train = ~self.held
        models = _three(x[train], self.y[train], self.trees, 31, self.seed)
        stretch = self._judge("random", models, x[self.held], np.zeros(int(self.held.sum())), self.held)
        models[0] = _three(x, self.y, self.trees, 31, self.seed)[0]
        return Section(
            self.family,
            self.gpu,
            None,
            None,
            None,
            None,
            {"physics": models},
            self._facts({"physics": stretch}, 0.1, 0.3),
        )

    # --- a table with a grid -----------------------------------------------------------------------------------

    def grid_of(self, rows: Mask) -> Grid:
        c = _take(self.columns, rows)
        return Grid.from_rows(
            stack.key_columns(self.family, c), [np.asarray(c[a], float) for a in self.family.axes], self.y[rows]
        )

    def hole_inputs(self, grid: Grid, rows: NDArray[Any], masked: bool) -> tuple[Floats, Floats]:
        c = _take(self.columns, rows)
        beside = self._beside(grid)
        slots = self._slots(grid)
        n = len(next(iter(c.values())))
        features, base = stack.hole_features(self.family, self.gpu, grid, beside, slots, c, np.full(n, masked))
        return stack.matrix(features), base

    def _beside(self, grid: Grid) -> list[Any]:
        if getattr(self, "_beside_of", None) is not grid:
            self._beside_of, self._beside_is = grid, [grid.beside(a) for a in range(len(self.family.axes))]
        return self._beside_is

    def _slots(self, grid: Grid) -> stack.Slots:
        if getattr(self, "_slots_of", None) is not grid:
            self._slots_of, self._slots_is = grid, stack.Slots(self.family, grid)
        return self._slots_is

    def fit_holes(self, grid: Grid, rows: Mask, with_quantiles: bool) -> list[Model]:
        chosen = np.flatnonzero(rows)
        x, base = self.hole_inputs(grid, chosen, False)
        r = self.y[chosen] - base
        if self.family.mask_axis >= 0:
            some = chosen[
                split_hash(_take(self.columns, chosen), self.family.config + self.family.axes, self.seed + 2) < 0.6
            ]
            x_masked, base_masked = self.hole_inputs(grid, some, True)
            x, r = np.vstack([x, x_masked]), np.concatenate([r, self.y[some] - base_masked])
        leaves = 63 if len(r) > 5000 else 15
        if with_quantiles:
            return _three(x, r, self.trees, leaves, self.seed)
        return [_fit(x, r, "l1", 0.5, self.trees, leaves, self.seed)]

    def complete(
        self,
        grid: Grid,
        models: Sequence[Model],
        stretch: Mapping[str, tuple[float, float]],
        beyond: float,
        far: Model | None = None,
    ) -> tuple[Grid, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """(completed grid, flags 0 measured 1 completed 2 continued, width codes below, above)."""
        family = self.family
        known = ~np.isnan(grid.y)
        covered = _hull(known) & ~known
        y = grid.y.copy()
        flags = np.where(known, 0, 2).astype(np.uint8)
        low = np.full(y.shape, 0.02, np.float32)
        high = low.copy()
        index = np.argwhere(covered)
        for start in range(0, len(index), 60000):
            part = index[start : start + 60000]
            columns = self._node_columns(grid, part)
            # A node whose line on the masked axis is empty is in a withheld region: the model knows that case.
            features, base = stack.hole_features(
                family, self.gpu, grid, self._beside(grid), self._slots(grid), columns, np.zeros(len(part), bool)
            )
            x = stack.matrix(features)
            at = tuple(part.T)
            if len(models) == 3:
                median, below, above = _quantiles(models, x)
                unseen = (
                    np.isnan(features[f"line_{family.mask_axis}"])
                    if family.mask_axis >= 0
                    else np.zeros(len(part), bool)
                )
                for mode, mask in (("random", ~unseen), ("region", unseen)):
                    factor, extra = stretch.get(mode, (1.5, 0.01))
                    below[mask], above[mask] = below[mask] * factor + extra, above[mask] * factor + extra
                low[at], high[at] = below, above
            else:
                median = models[0].predict(x)
            y[at] = base + median
            flags[at] = 1
        filled = Grid(grid.configs, grid.axes, y)
        if family.extend:
            filled, flags, low, high = self._extend(filled, flags, low, high)
        steps = self._continue(filled, far)
        outside = flags == 2
        low[outside] = high[outside] = beyond * np.sqrt(np.maximum(1.0, steps[outside]))
        return filled, flags, encode_width(low), encode_width(high)

    def _extend(self, grid: Grid, *arrays: NDArray[Any]) -> tuple[Grid, Any, Any, Any]:
        """The same with more nodes on an axis: not known, flagged as continued."""
        out: list[NDArray[Any]] = [grid.y, *arrays]
        axes = list(grid.axes)
        for name, nodes in self.family.extend.items():
            a = self.family.axes.index(name)
            more = np.array([v for v in nodes if v > axes[a][-1]], float)
            axes[a] = np.concatenate([axes[a], more])
            for i, fill in enumerate((np.nan, 2, 0.1, 0.1)):
                shape = list(out[i].shape)
                shape[a + 1] = len(more)
                out[i] = np.concatenate([out[i], np.full(shape, fill, out[i].dtype)], axis=a + 1)
        return Grid(grid.configs, axes, out[0]), out[1], out[2], out[3]

    def fit_far(self, grid: Grid, rows: Mask) -> Model | None:
        """The model that continues the last axis, from completed nodes with fewer keys."""
        last = np.asarray(self.columns[self.family.axes[-1]], float)
        chosen = np.flatnonzero(rows & (last >= 256))
        chosen = chosen[_sample(len(chosen), _REGION_ROWS, self.seed)]
        if not self.family.far or len(chosen) < _ENOUGH:
            return None
        features, base = stack.far_features(self.family, self.gpu, grid, _take(self.columns, chosen))
        return _fit(stack.matrix(features), self.y[chosen] - base, "l1", 0.5, min(200, self.trees), 31, self.seed)

    def _continue_far(self, grid: Grid, far: Model) -> NDArray[np.float32]:
        """Fill the far side of the last axis octave by octave."""
        steps = np.zeros(grid.y.shape, np.float32)
        for i in range(1, grid.y.shape[-1]):
            todo = np.argwhere(np.isnan(grid.y[..., i]) & ~np.isnan(grid.y[..., i - 1]))
            if not len(todo) or grid.axes[-1][i] < 64:
                continue
            index = np.column_stack([todo, np.full(len(todo), i)])
            features, base = stack.far_features(self.family, self.gpu, grid, self._node_columns(grid, index))
            grid.y[tuple(index.T)] = base + far.predict(stack.matrix(features))
            steps[tuple(index.T)] = steps[..., i - 1][tuple(todo.T)] + 1
        return steps

    def _node_columns(self, grid: Grid, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Columns of nodes [rows, 1 + axes]."""
        out: dict[str, NDArray[Any]] = {}
        for i, name in enumerate(self.family.config):
            values = np.array([c[i] for c in grid.configs], dtype=object if name in self.family.text else float)
            out[name] = values[index[:, 0]]
        for a, name in enumerate(self.family.axes):
            out[name] = grid.axes[a][index[:, 1 + a]]
        if "kv_len" in self.family.extra:
            out["kv_len"] = out["q_len"]
        elif "q_len" in self.family.extra:
            out["q_len"] = np.where(out["phase"] == "prefill", out["kv_len"], 1.0)
        return out

    def _continue(self, grid: Grid, far: Model | None = None) -> NDArray[np.float32]:
        """Fill what is left: upwards in time along the roofline, downwards with the nearest ratio. Steps per node."""
        first = self._continue_far(grid, far) if far is not None else None
        unknown = np.argwhere(np.isnan(grid.y))
        steps = first if first is not None else np.zeros(grid.y.shape, np.float32)
        if not len(unknown):
            return steps
        everything = np.indices(grid.y.shape).reshape(grid.y.ndim, -1).T
        flat = np.empty(len(everything))
        for start in range(0, len(everything), 200000):
            part = everything[start : start + 200000]
            flat[start : start + 200000] = self.family.roofline_us(self.gpu, self._node_columns(grid, part))
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

    def _judge(
        self, name: str, models: Sequence[Model], x: Floats, base: Floats, rows: NDArray[Any]
    ) -> tuple[float, float]:
        """Held-out errors and coverage of one mode go into the report; its stretch comes back."""
        if not len(x):
            return 1.5, 0.01
        median, low, high = _quantiles(models, x)
        error = self.y[rows] - base - median
        half = (
            split_hash(_take(self.columns, rows), self.family.config + self.family.axes, self.seed + 3) < 0.5
            if self.family.axes
            else np.arange(len(error)) % 2 == 0
        )
        # Calibrated on one half, coverage counted on the other; the shipped stretch uses both.
        factor, extra = _stretch(error[half], low[half], high[half])
        inside = (error[~half] <= high[~half] * factor + extra) & (error[~half] >= -(low[~half] * factor + extra))
        self.report[name] = {**_errors(error), "coverage": round(float(inside.mean()), 4) if len(inside) else None}
        self.rows[f"{name}_error"], self.rows[f"{name}_us"] = error, self.us[rows]
        factor, extra = _stretch(error, low, high)
        return round(factor, 4), round(extra, 5)

    def beyond_width(self, rows: Mask) -> float:
        """80 % of the errors when the last axis is cut two octaves short and continued."""
        axis = self.family.axes[-1]
        values = np.asarray(self.columns[axis], float)
        nodes = np.unique(values)
        if len(nodes) < 5:
            return 0.3
        cut = nodes[np.searchsorted(nodes, nodes[-1] / 3.9)] if nodes[-1] > 0 else nodes[-2]
        outer = values > cut
        grid = self.grid_of(rows)
        grid.y[..., grid.axes[-1] > cut] = np.nan
        for _ in range(2):  # lines only: enough for a figure
            _fill_lines(grid)
        far = self.fit_far(Grid(grid.configs, grid.axes, grid.y.copy()), rows & ~outer)
        self._continue(grid, far)
        c = _take(self.columns, outer)
        config = grid.config_ids(stack.key_columns(self.family, c))
        on_axis, exact = grid.nodes([np.asarray(c[a], float) for a in self.family.axes])
        ok = (config >= 0) & exact
        if not ok.any():
            return 0.3
        error = self.y[outer][ok] - grid.at(config[ok], [i[ok] for i in on_axis])
        self.report["beyond"] = _errors(error)
        return round(float(np.clip(np.quantile(np.abs(error), COVERAGE), 0.01, 1.0)), 4)

    def with_grid(self) -> Section:
        family = self.family
        open_rows = ~(self.held | self.region)
        part = self.grid_of(open_rows)
        stretch: dict[str, Any] = {}
        holes = self.fit_holes(part, open_rows, True)
        held = np.flatnonzero(
            self.held & (part.config_ids(stack.key_columns(family, self.columns)) >= 0) & self._on_nodes(part)
        )
        x, base = self.hole_inputs(part, held, False)
        stretch["random"] = self._judge("random", holes, x, base, held)
        if family.mask_axis >= 0 and self.region.any():
            rows = np.flatnonzero(self.region & self._on_nodes(part))
            x, base = self.hole_inputs(part, rows, True)
            stretch["region"] = self._judge("region", holes, x, base, rows)
        beyond = self.beyond_width(open_rows)
        models: dict[str, list[Model]] = {}
        runtime: dict[str, tuple[float, float]] = {}
        completed, *_ = self.complete(part, [holes[0]], {}, beyond)
        far = self.fit_far(completed, open_rows)
        if family.strict_slots and len(self.y) > _ENOUGH:
            models["config"], runtime["config"] = self._config_models(completed, open_rows)
        if family.mask_axis < 0 and len(self.y) > _ENOUGH:
            models["physics"], runtime["physics"] = self._physics_models(open_rows)
        whole = self.grid_of(np.ones(len(self.y), bool))
        final = [self.fit_holes(whole, np.ones(len(self.y), bool), False)[0], *holes[1:]]
        filled, flags, low, high = self.complete(whole, final, stretch, beyond, far)
        size_width = 0.05
        if len(self.y) > _ENOUGH:
            models["size"], runtime["size"] = self._size_models(filled)
        return Section(family, self.gpu, filled, flags, low, high, models, self._facts(runtime, size_width, beyond))

    def _on_nodes(self, grid: Grid) -> Mask:
        _, exact = grid.nodes([np.asarray(self.columns[a], float) for a in self.family.axes])
        return exact

    def _config_models(self, completed: Grid, open_rows: Mask) -> tuple[list[Model], tuple[float, float]]:
        slots = stack.Slots(self.family, completed)

        def inputs(rows: NDArray[Any]) -> tuple[Floats, Floats]:
            features, base = stack.config_features(self.family, self.gpu, completed, slots, _take(self.columns, rows))
            return stack.matrix(features), base

        chosen = np.flatnonzero(open_rows)
        chosen = chosen[_sample(len(chosen), _REGION_ROWS, self.seed)]
        x, base = inputs(chosen)
        leaves = 31 if len(chosen) > 5000 else 12
        models = _three(x, self.y[chosen] - base, min(250, self.trees), leaves, self.seed)
        rows = np.flatnonzero(self.region)
        stretch = (1.5, 0.01)
        if len(rows):
            x, base = inputs(rows)
            stretch = self._judge("region", models, x, base, rows)
        return models, stretch

    def _physics_models(self, open_rows: Mask) -> tuple[list[Model], tuple[float, float]]:
        x = stack.matrix(self.family.physics(self.gpu, self.columns))
        chosen = np.flatnonzero(open_rows)
        chosen = chosen[_sample(len(chosen), _REGION_ROWS, self.seed)]
        models = _three(x[chosen], self.y[chosen], min(200, self.trees), 31 if len(chosen) > 5000 else 12, self.seed)
        model_columns = [c for c in self.family.region if c not in ("moe_tp_size", "moe_ep_size")]
        rows = self.region
        if self.family.name == "moe":  # whole models, not only their splits
            unseen = split_hash(self.columns, model_columns, self.seed + 4) < 0.18
            if 0.02 < unseen.mean() < 0.5:
                rows = unseen
                seen = np.flatnonzero(~unseen)
                seen = seen[_sample(len(seen), _REGION_ROWS, self.seed)]
                judged = _three(x[seen], self.y[seen], min(200, self.trees), 31, self.seed)
                stretch = self._judge("model", judged, x[rows], np.zeros(int(rows.sum())), rows)
                return models, stretch
        if not rows.any():
            rows = self.held
        return models, self._judge("physics", models, x[rows], np.zeros(int(rows.sum())), rows)

    def _size_models(self, filled: Grid) -> tuple[list[Model], tuple[float, float]]:
        """Sizes between nodes, taught on nodes whose own planes are hidden on some axes."""
        axes = len(self.family.axes)
        bits = (split_hash(self.columns, self.family.config + self.family.axes, self.seed + 5) * (2**axes - 1)).astype(
            int
        ) + 1
        skip = (bits[:, None] >> np.arange(axes) & 1).astype(bool)
        features, base = stack.size_features(self.family, self.gpu, filled, self.columns, skip)
        x = stack.matrix(features)
        ok = ~np.isnan(base)
        judged = split_hash(self.columns, self.family.axes[-1:], self.seed + 6) < 0.2
        train, test = ok & ~judged, ok & judged
        if train.sum() < _ENOUGH:
            train = ok
        chosen = np.flatnonzero(train)
        chosen = chosen[_sample(len(chosen), _REGION_ROWS, self.seed)]
        r = self.y - base
        leaves = 31 if len(chosen) > 5000 else 12
        models = _three(x[chosen], r[chosen], min(150, self.trees), leaves, self.seed)
        return models, self._judge("size", models, x[test], base[test], np.flatnonzero(test))

    def _facts(self, stretch: Mapping[str, tuple[float, float]], size_width: float, beyond: float) -> dict[str, Any]:
        box: dict[str, list[Any]] = {}
        for name in (*self.family.config, *self.family.axes):
            if name not in self.family.text:
                values = np.asarray(self.columns[name], float)
                box[name] = [float(values.min()), float(values.max())]
        for name in self.family.config:
            if name in self.family.text:
                box[name] = sorted({str(v) for v in self.columns[name].tolist()})
        return {
            "stretch": {k: list(v) for k, v in stretch.items()},
            "size_width": size_width,
            "beyond_width": beyond,
            "rows": len(self.y),
            "box": box,
            "held_out": self.report,
        }


def _hull(known: Mask) -> Mask:
    """Nodes with a measured node at or below and one at or above on every axis, for each configuration."""
    below, above = known.copy(), known.copy()
    for dim in range(1, known.ndim):
        below = np.maximum.accumulate(below, dim)
        above = np.flip(np.maximum.accumulate(np.flip(above, dim), dim), dim)
    return np.asarray(below & above, bool)


def _fill_lines(grid: Grid) -> None:
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


def train_section(family: Family, gpu: Gpu, columns: Columns, seed: int = 1, trees: int = 300) -> Trained:
    """Train one section. columns: typed columns of the variant and `us`; rows of one GPU (and framework version)."""
    order = np.lexsort(
        [
            np.asarray(columns[c]).astype(str) if c in family.text else np.asarray(columns[c], float)
            for c in (*family.axes, *family.config, *family.extra)
        ]
    )
    trainer = _Trainer(family, gpu, _take(columns, order), seed, trees)
    section = trainer.with_grid() if family.axes else trainer.without_grid()
    return Trained(section, trainer.report, trainer.rows)


def train_measured(tables: Path, out: Path, seed: int = 1, trees: int = 300, workers: int = 1) -> list[dict[str, Any]]:
    """Train packs from a directory of measured tables (<family>/*.csv.gz) into `out`; see build.train_all."""
    from revati_predictors.build import train_all

    return train_all(tables, out, seed, trees, workers)
