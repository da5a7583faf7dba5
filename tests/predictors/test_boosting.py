"""Compact model text gives what LightGBM gave before, in batches, for single rows, and without LightGBM."""

from __future__ import annotations

import numpy as np
import pytest

from revati_predictors.boosting import Model, _Trees, compact_text

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
    single = np.array([model.predict(x[i : i + 1])[0] for i in range(50)])
    assert np.array_equal(single, model.predict(x)[:50])


def test_numpy_trees_agree_with_lightgbm(trained: tuple[object, np.ndarray]) -> None:
    booster, x = trained
    short = compact_text(booster.model_to_string())  # type: ignore[attr-defined]
    assert np.allclose(_Trees(short).predict(x), Model(short).predict(x), atol=1e-9)
