"""From one measured table to one section: complete the table, learn what it does not hold, and measure both.

Held out for the figures and for calibrating the intervals: shapes at random (all data types of a shape together) and
whole regions (unseen (n, k), heads, MoE models). A large table gives up some rows once, and its section ships as it was
judged (only the rows held out come back as measured nodes); a small one is judged in several rounds, each without
other rows, and the section is then trained on all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors import stack
from revati_predictors.boosting import Model
from revati_predictors.complete import complete, continue_grid, fill_lines, fit_far
from revati_predictors.families import Columns, Family
from revati_predictors.fitting import (
    COVERAGE,
    errors,
    fit,
    quantiles,
    sample,
    split_hash,
    stretch_by_group,
    tails,
    take,
    three,
)
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ABSENT, Grid
from revati_predictors.holes import Holes, Prior, known_rows
from revati_predictors.law import Law, fit_law
from revati_predictors.learned import Section

__all__ = ["Trained", "train_section"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_MANY = 14000  # rows from which one round gives enough held-out ones
_FEW = 2000  # rows up to which it takes eight rounds, else four
_SIZE_ROUNDS, _GROUPS = 5, 4
_HELD = 0.1  # of the shapes, and of the regions, in each round
_REGION_ROWS = 20000  # more rows change these models little and cost minutes
_ENOUGH = 400  # rows below which a learned residual is not worth having


@dataclass
class Trained:
    """A section and what the report says about it. `rows` holds held-out rows for the plots."""

    section: Section
    report: dict[str, Any]
    rows: dict[str, NDArray[Any]]


@dataclass
class _Held:
    """Held-out rows of one mode and round: row numbers, truth - median, widths as the models gave them."""

    rows: NDArray[np.int64]
    error: Floats
    low: Floats
    high: Floats


class _Trainer:
    def __init__(self, family: Family, gpu: Gpu, columns: Columns, seed: int, trees: int) -> None:
        self.family, self.gpu, self.seed, self.trees = family, gpu, seed, trees
        self.columns = {c: v for c, v in columns.items() if c != "us"}
        self.us = np.asarray(columns["us"], float)
        self.y = np.log(self.us / family.roofline_us(gpu, self.columns))
        self.report: dict[str, Any] = {}
        self.rows: dict[str, NDArray[Any]] = {}
        self.held: dict[str, list[_Held]] = {}
        self.small = len(self.y) < _MANY
        self.round_count = 1 if not self.small else 4 if len(self.y) > _FEW else 8

    def rounds(self) -> Iterable[tuple[Mask, Mask]]:
        """(shapes held out, regions held out) of every round."""
        shape = split_hash(self.columns, self.family.shape_columns, self.seed)
        region = split_hash(self.columns, self.family.region, self.seed + 1) if self.family.region else None
        for i in range(self.round_count):
            apart = np.zeros(len(self.y), bool)
            if region is not None:
                apart = (region >= i * _HELD) & (region < (i + 1) * _HELD)
                if apart.mean() > 0.4:
                    apart[:] = False
            yield (shape >= i * _HELD) & (shape < (i + 1) * _HELD) & ~apart, apart

    def train(self) -> Section:
        """The section; the report is filled on the way."""
        return self._with_grid() if self.family.axes else self._without_grid()

    # --- a table without a grid --------------------------------------------------------------------------------

    def _without_grid(self) -> Section:
        x = stack.matrix(self.family.physics(self.gpu, self.columns))
        for held, apart in self.rounds():
            models = three(x[~(held | apart)], self.y[~(held | apart)], self.trees, 31, self.seed)
            self._hold("random", np.flatnonzero(held), models, x, np.zeros(len(x)))
        models = three(x, self.y, self.trees, 31, self.seed)
        stretch = {"physics": self._judge("random")}
        return Section(
            self.family, self.gpu, None, None, None, None, {"physics": models}, self._facts(stretch, 0.1, 0.3)
        )

    # --- a table with a grid -----------------------------------------------------------------------------------

    def _with_grid(self) -> Section:
        family = self.family
        everything = np.ones(len(self.y), bool)
        holes, beyond = None, 0.3
        for i, (held, apart) in enumerate(self.rounds()):
            open_rows = ~(held | apart)
            holes = self._holes(open_rows, None).fit(self.trees, True)
            self._hold_holes("random", holes, known_rows(holes, self.columns, np.flatnonzero(held)), False)
            if family.mask_axis >= 0:
                self._hold_holes("region", holes, np.flatnonzero(apart & self._on_nodes(holes.grid)), True)
            if i == 0:
                beyond = self._beyond_width(open_rows)
            if len(self.y) <= _ENOUGH:
                continue
            if family.strict_slots and apart.any():
                completed = complete(holes, {}, beyond)[0]
                self._hold_config(completed, open_rows, apart)
            if family.mask_axis < 0:
                self._hold_physics(open_rows, apart if apart.any() else held)
        assert holes is not None
        stretch: dict[str, tuple[float, float]] = {
            mode: self._judge(mode) for mode in ("random", "region") if mode in self.held
        }
        if self.small:
            holes = self._holes(everything, None).fit(self.trees, True)
        else:  # the judged models, with every row as a neighbour
            whole = self._holes(everything, holes.prior)
            whole.median, whole.tails = holes.median, holes.tails
            holes = whole
        far = self._far(complete(holes, {}, beyond)[0], everything)
        filled, flags, low, high = complete(holes, stretch, beyond, far)
        models: dict[str, list[Model]] = {}
        law: Law | None = None
        runtime: dict[str, tuple[float, float]] = {}
        if len(self.y) > _ENOUGH:
            if family.strict_slots:
                models["config"] = self._config_models(filled, everything)[0]
                runtime["config"] = stretch.get("region", (1.5, 0.01))
            if family.mask_axis < 0:
                models["physics"], law = self._apart_models(everything)
                runtime["physics"] = self._judge("model" if "model" in self.held else "physics")
            models["size"] = self._size_models(filled)
            runtime["size"] = self._judge("size")
        facts = self._facts(runtime, 0.05, beyond)
        if law is not None:
            facts["law"] = law
        return Section(family, self.gpu, filled, flags, low, high, models, facts)

    def _holes(self, rows: Mask, prior: Prior | None) -> Holes:
        chosen = np.flatnonzero(rows)
        columns, y = take(self.columns, chosen), self.y[chosen]
        if prior is None:
            prior = Prior(self.family, self.gpu, columns, y, self.seed, self.trees)
        return Holes(self.family, self.gpu, columns, y, self.seed, prior)

    def _on_nodes(self, grid: Grid) -> Mask:
        _, exact = grid.nodes([np.asarray(self.columns[a], float) for a in self.family.axes])
        return exact

    def _far(self, grid: Grid, rows: Mask) -> Model | None:
        return fit_far(self.family, self.gpu, grid, self.columns, self.y, rows, self.seed, self.trees)

    # --- held-out rows -------------------------------------------------------------------------------------------

    def _keep(self, mode: str, rows: NDArray[np.int64], base: Floats, widths: tuple[Floats, Floats, Floats]) -> None:
        median, low, high = widths
        self.held.setdefault(mode, []).append(_Held(rows, self.y[rows] - base - median, low, high))

    def _hold(self, mode: str, rows: NDArray[np.int64], models: Sequence[Model], x: Floats, base: Floats) -> None:
        """x and base are of all rows."""
        if len(rows):
            self._keep(mode, rows, base[rows], quantiles(models, x[rows]))

    def _hold_holes(self, mode: str, holes: Holes, rows: NDArray[np.int64], masked: bool) -> None:
        if len(rows):
            self._keep(mode, rows, np.zeros(len(rows)), holes.predict(take(self.columns, rows), masked))

    def _judge(self, mode: str) -> tuple[float, float]:
        """Held-out errors and coverage of one mode go into the report; the stretch of its intervals comes back.

        Groups are the rounds, or shares of the shapes where there is one round.
        """
        parts = self.held.get(mode, [])
        if not parts:
            return 1.5, 0.01
        rows, error, low, high = (
            np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "error", "low", "high")
        )
        if len(parts) > 1:
            group = np.concatenate([np.full(len(p.rows), i) for i, p in enumerate(parts)])
        else:
            names = self.family.region if mode in ("region", "model") and self.family.region else None
            part = split_hash(take(self.columns, rows), names or self.family.shape_columns, self.seed + 3)
            group = (part * _GROUPS).astype(np.int64)
        factor, extra, coverage = stretch_by_group(error, low, high, group)
        self.report[mode] = {**errors(error), "coverage": round(coverage, 4)}
        self.rows[f"{mode}_error"], self.rows[f"{mode}_us"] = error, self.us[rows]
        return round(factor, 4), round(extra, 5)

    # --- models of the runtime -----------------------------------------------------------------------------------

    def _config_models(self, completed: Grid, rows: Mask) -> tuple[list[Model], stack.Slots]:
        """Configurations from similar ones."""
        slots = stack.Slots(self.family, completed)
        chosen = np.flatnonzero(rows)
        chosen = chosen[sample(len(chosen), _REGION_ROWS, self.seed)]
        features, base = stack.config_features(self.family, self.gpu, completed, slots, take(self.columns, chosen))
        leaves = 31 if len(chosen) > 5000 else 12
        return three(stack.matrix(features), self.y[chosen] - base, min(250, self.trees), leaves, self.seed), slots

    def _hold_config(self, completed: Grid, open_rows: Mask, apart: Mask) -> None:
        models, slots = self._config_models(completed, open_rows)
        rows = np.flatnonzero(apart)
        ids, _ = slots.of(stack.key_columns(self.family, take(self.columns, rows)))
        rows = rows[(ids[:, : self.family.strict_slots] != ABSENT).any(axis=1)]  # others are left to the physics
        if not len(rows):
            return
        features, base = stack.config_features(self.family, self.gpu, completed, slots, take(self.columns, rows))
        self._keep("region", rows, base, quantiles(models, stack.matrix(features)))

    def _apart_models(self, rows: Mask) -> tuple[list[Model], Law | None]:
        """Anything of the family, from its features alone: (models, the law beneath them where the family has one)."""
        family, law = self.family, None
        chosen = np.flatnonzero(rows)
        if family.terms is not None:
            law = fit_law(family, self.gpu, take(self.columns, chosen), self.us[chosen], self._model_names(), self.seed)
        chosen = chosen[sample(len(chosen), _REGION_ROWS, self.seed)]
        features, base = stack.apart_features(family, self.gpu, take(self.columns, chosen), law)
        x, r = stack.matrix(features), self.y[chosen] - base
        if law is None:
            return three(x, r, min(200, self.trees), 31 if len(chosen) > 5000 else 12, self.seed), None
        trees = min(150, self.trees)
        return [fit(x, r, "huber", 0.3, trees, 63, self.seed, 0.12), *tails(x, r, trees, self.seed)], law

    def _model_names(self) -> list[str]:
        """The columns that tell one model from another, whatever its split."""
        return [c for c in self.family.region if c not in ("moe_tp_size", "moe_ep_size")]

    def _hold_physics(self, open_rows: Mask, apart: Mask) -> None:
        if self.family.name == "moe":  # whole models, not only their splits
            part = split_hash(self.columns, self._model_names(), self.seed + 4)
            for i in range(4 if "model" not in self.held else 0):
                unseen = (part >= i * 0.25) & (part < (i + 1) * 0.25)
                if 0.02 < unseen.mean() < 0.5:
                    self._hold_apart("model", np.flatnonzero(unseen), ~unseen)
            if "model" in self.held:
                return
        self._hold_apart("physics", np.flatnonzero(apart), open_rows)

    def _hold_apart(self, mode: str, rows: NDArray[np.int64], open_rows: Mask) -> None:
        models, law = self._apart_models(open_rows)
        if len(rows):
            features, base = stack.apart_features(self.family, self.gpu, take(self.columns, rows), law)
            self._keep(mode, rows, base, quantiles(models, stack.matrix(features)))

    def _size_models(self, filled: Grid) -> list[Model]:
        """Sizes between nodes, taught on nodes whose own planes are hidden on some axes."""
        axes = len(self.family.axes)
        names = self.family.config + self.family.axes
        bits = (split_hash(self.columns, names, self.seed + 5) * (2**axes - 1)).astype(int) + 1
        skip = (bits[:, None] >> np.arange(axes) & 1).astype(bool)
        features, base = stack.size_features(self.family, self.gpu, filled, self.columns, skip)
        x = stack.matrix(features)
        ok = ~np.isnan(base)
        part = split_hash(self.columns, self.family.axes[-1:], self.seed + 6)
        models: list[Model] = []
        for i in range(_SIZE_ROUNDS if self.small else 1):
            judged = (part >= i * 0.2) & (part < (i + 1) * 0.2)
            train = ok & ~judged
            if train.sum() < _ENOUGH / 2:
                train = ok
            chosen = np.flatnonzero(train)
            chosen = chosen[sample(len(chosen), _REGION_ROWS, self.seed)]
            leaves = 31 if len(chosen) > 5000 else 12
            models = three(x[chosen], self.y[chosen] - base[chosen], min(150, self.trees), leaves, self.seed)
            self._hold("size", np.flatnonzero(ok & judged), models, x, base)
        return models

    def _beyond_width(self, rows: Mask) -> float:
        """80 % of the errors when the last axis is cut two octaves short and continued."""
        family = self.family
        axis = family.axes[-1]
        values = np.asarray(self.columns[axis], float)
        nodes = np.unique(values)
        if len(nodes) < 5:
            return 0.3
        cut = nodes[np.searchsorted(nodes, nodes[-1] / 3.9)] if nodes[-1] > 0 else nodes[-2]
        outer = values > cut
        columns = take(self.columns, np.flatnonzero(rows))
        coordinates = [np.asarray(columns[a], float) for a in family.axes]
        grid = Grid.from_rows(stack.key_columns(family, columns), coordinates, self.y[rows])
        grid.y[..., grid.axes[-1] > cut] = np.nan
        for _ in range(2):  # lines only: enough for a figure
            fill_lines(grid)
        far = self._far(Grid(grid.configs, grid.axes, grid.y.copy()), rows & ~outer)
        continue_grid(family, self.gpu, grid, far)
        c = take(self.columns, np.flatnonzero(outer))
        config = grid.config_ids(stack.key_columns(family, c))
        on_axis, exact = grid.nodes([np.asarray(c[a], float) for a in family.axes])
        ok = (config >= 0) & exact
        if not ok.any():
            return 0.3
        error = self.y[outer][ok] - grid.at(config[ok], [i[ok] for i in on_axis])
        self.report["beyond"] = errors(error)
        return round(float(np.clip(np.quantile(np.abs(error), COVERAGE), 0.01, 1.0)), 4)

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


def train_section(family: Family, gpu: Gpu, columns: Columns, seed: int = 1, trees: int = 300) -> Trained:
    """Train one section. columns: typed columns of the variant and `us`; rows of one GPU (and framework version)."""
    order = np.lexsort(
        [
            np.asarray(columns[c]).astype(str) if c in family.text else np.asarray(columns[c], float)
            for c in (*family.axes, *family.config, *family.extra)
        ]
    )
    trainer = _Trainer(family, gpu, take(columns, order), seed, trees)
    return Trained(trainer.train(), trainer.report, trainer.rows)
