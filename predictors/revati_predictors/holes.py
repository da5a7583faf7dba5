"""What stands in the holes of a measured table: a model of the neighbours, with a physical prior for what they miss.

The prior sees physical features only and is cross-fitted: every row, and every hole, is estimated by the model of its
fold, which saw no row of that fold. So the residuals of measured neighbours mean the same in training and in a hole.
None of this ships: packs hold the completed table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors import stack
from revati_predictors.boosting import Model
from revati_predictors.families import Columns, Family
from revati_predictors.fitting import fit, sample, split_hash, tails, take
from revati_predictors.gpus import Gpu
from revati_predictors.grid import Grid

__all__ = ["Holes", "Prior", "known_rows"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_FOLDS = 3
_PRIOR_LEAST, _PRIOR_ROWS = 400, 50000  # rows between which a prior gains from more of them
_NEIGHBOUR_ROWS = 110000  # rows of the neighbours' model; more change little
_PRIOR_GAIN = 2.0  # a prior whose error is larger than the neighbours' by this factor only adds noise
_ROBUST = 0.05  # log error from which a row counts as an outlier


class Prior:
    """log(measured / roofline) from physical features, each row by a model that saw neither it nor its siblings."""

    def __init__(self, family: Family, gpu: Gpu, columns: Columns, y: Floats, seed: int, trees: int) -> None:
        self._family, self._gpu, self._seed = family, gpu, seed
        # Siblings: other m of an (n, k), since whole (n, k) are missing; else other data types of a shape.
        self._names = family.region if family.mask_axis >= 0 else family.shape_columns
        self._models: list[Model] = []
        if len(y) < _PRIOR_LEAST:
            return
        x = stack.matrix(family.physics(gpu, columns))
        fold = self._folds(columns)
        for k in range(_FOLDS):
            rows = np.flatnonzero(fold != k)
            rows = rows[sample(len(rows), _PRIOR_ROWS, seed)]
            if len(rows) < _PRIOR_LEAST / 2:
                self._models = []
                return
            leaves = 95 if len(rows) > 5000 else 31
            self._models.append(fit(x[rows], y[rows], "huber", 0.3, trees, leaves, seed + k, 0.1))

    def __bool__(self) -> bool:
        return bool(self._models)

    def _folds(self, columns: Columns) -> NDArray[np.int64]:
        return (split_hash(columns, self._names, self._seed + 7) * _FOLDS).astype(np.int64)

    def of(self, columns: Columns) -> Floats:
        """The estimate of rows, known ones and others."""
        fold = self._folds(columns)
        x = stack.matrix(self._family.physics(self._gpu, columns))
        out = np.zeros(len(fold))
        for k, model in enumerate(self._models):
            rows = np.flatnonzero(fold == k)
            if len(rows):
                out[rows] = model.predict(x[rows])
        return out


class Holes:
    """A grid of rows, and models for what is missing in it. `median` models are averaged; `tails` may be empty."""

    def __init__(self, family: Family, gpu: Gpu, columns: Columns, y: Floats, seed: int, prior: Prior | None) -> None:
        self.family, self.gpu, self.seed = family, gpu, seed
        self._columns, self._y = columns, y
        self.grid = self._grid(y)
        axes = range(len(family.axes))
        self._beside = [self.grid.beside(a) for a in axes]
        self._slots = stack.Slots(family, self.grid)
        self.prior = prior if prior else None
        self._residual: Grid | None = None
        if self.prior is not None:
            left = y - self.prior.of(columns)
            _, base = self.inputs(columns, False)
            if np.abs(left).mean() > _PRIOR_GAIN * np.abs(y - base).mean():
                self.prior = None
            else:
                self._residual = self._grid(left)
        self.unseen: Mask | None = None  # of the last rows asked: those in a region where nothing was measured
        self.answers: list[tuple[NDArray[Any], Floats, Floats, Floats, Mask | None]] | None = None  # of complete()
        self.median: list[Model] = []
        self.tails: list[Model] = []

    def _grid(self, y: Floats) -> Grid:
        coordinates = [np.asarray(self._columns[a], float) for a in self.family.axes]
        return Grid.from_rows(stack.key_columns(self.family, self._columns), coordinates, y)

    def inputs(self, columns: Columns, masked: bool) -> tuple[Floats, Floats]:
        """(features, base estimate) of rows on nodes, each as if it were missing itself."""
        n = len(next(iter(columns.values())))
        prior = self.prior.of(columns) if self.prior is not None and self._residual is not None else None
        features, base = stack.hole_features(
            self.family,
            self.gpu,
            self.grid,
            self._beside,
            self._slots,
            columns,
            np.full(n, masked),
            self._residual,
            prior,
        )
        self.unseen = np.isnan(features[f"line_{self.family.mask_axis}"]) if self.family.mask_axis >= 0 else None
        return stack.matrix(features), base

    def fit(self, trees: int, with_tails: bool) -> Holes:
        """Teach the models on the grid's own rows."""
        names = self.family.config + self.family.axes
        rows = sample(len(self._y), _NEIGHBOUR_ROWS, self.seed)
        columns, y = take(self._columns, rows), self._y[rows]
        x, base = self.inputs(columns, False)
        r = y - base
        if self.family.mask_axis >= 0:
            some = np.flatnonzero(split_hash(columns, names, self.seed + 2) < 0.6)
            x_masked, base_masked = self.inputs(take(columns, some), True)
            x, r = np.vstack([x, x_masked]), np.concatenate([r, y[some] - base_masked])
        leaves = 127 if len(r) > 5000 else 15
        trees = trees * 4 // 3
        # Two losses: absolute errors aim at the median, Huber's at what outliers leave of the mean.
        self.median = [
            fit(x, r, "l1", 0.5, trees, leaves, self.seed, 0.08),
            fit(x, r, "huber", _ROBUST, trees, leaves, self.seed + 1, 0.08),
        ]
        if with_tails:
            self.tails = tails(x, r, trees * 3 // 4, self.seed)
        return self

    def predict(self, columns: Columns, masked: bool) -> tuple[Floats, Floats, Floats]:
        """(log ratio, width below, width above) of rows on nodes; widths of 0.002 without tails."""
        x, base = self.inputs(columns, masked)
        median = np.mean([m.predict(x) for m in self.median], axis=0)
        if not self.tails:
            narrow = np.full(len(median), 0.002)
            return base + median, narrow, narrow
        lower, upper = (m.predict(x) for m in self.tails)
        return base + median, np.maximum(0.002, median - lower), np.maximum(0.002, upper - median)


def known_rows(holes: Holes, columns: Columns, rows: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Those of `rows` whose configuration and nodes the grid has."""
    part = take(columns, np.asarray(rows))
    _, exact = holes.grid.nodes([np.asarray(part[a], float) for a in holes.family.axes])
    has = holes.grid.config_ids(stack.key_columns(holes.family, part)) >= 0
    return np.asarray(rows)[has & exact]
