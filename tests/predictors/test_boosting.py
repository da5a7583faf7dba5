"""Compact model text gives what LightGBM gave before, in batches, for single rows, and without LightGBM."""

from __future__ import annotations

import numpy as np
import pytest

from revati_predictors.boosting import Ensemble, Forest, Model, compact_text

lightgbm = pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def trained() -> tuple[object, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 6))
    x[rng.random(x.shape) < 0.15] = np.nan
    y = np.nan_to_num(x[:, 0]) * 2 + np.where(np.isnan(x[:, 1]), 3, np.sin(x[:, 1])) + 0.1 * rng.normal(size=3000)
    params = {"objective": "l1", "num_leaves": 31, "verbose": -1, "num_threads": 1, "deterministic": True, "seed": 1}
    return lightgbm.train(params, lightgbm.Dataset(x, y), 60), x


def test_compact_text_predicts_the_same(trained: tuple[object, np.ndarray]) -> None:
    booster, x = trained
    text = booster.model_to_string()  # type: ignore[attr-defined]
    short = compact_text(text)
    assert len(short) < 0.6 * len(text)
    expected = booster.predict(x)  # type: ignore[attr-defined]
    model = Model(short)
    assert np.abs(model.predict(x) - expected).max() < 2e-3


def test_numpy_forest_is_bit_identical_to_lightgbm(trained: tuple[object, np.ndarray]) -> None:
    """Whichever evaluates a row, durations come out the same to the nanosecond."""
    booster, x = trained
    short = compact_text(booster.model_to_string())  # type: ignore[attr-defined]
    few = compact_text(booster.model_to_string(num_iteration=7))  # type: ignore[attr-defined]
    forest = Forest([short, few]).predict(x)
    assert np.array_equal(forest[0], Model(short).predict(x))
    assert np.array_equal(forest[1], Model(few).predict(x))
    both = Ensemble([Model(short), Model(few)])
    assert np.array_equal(both.predict(np.vstack([x] * 7))[:, : len(x)], forest)
    assert np.array_equal(both.predict(x[:3]), forest[:, :3])
    assert np.array_equal(Forest([short]).predict(np.nan_to_num(x)), [Model(short).predict(np.nan_to_num(x))])
