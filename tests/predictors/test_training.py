"""Pieces of training: intervals that hold on rows to come, a prior that never saw its row, rows of one node."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("lightgbm")

from revati_predictors import find_gpu
from revati_predictors.families import VARIANTS
from revati_predictors.families.moe import moe_loads
from revati_predictors.fitting import stretch_by_group, stretch_of
from revati_predictors.grid import Grid
from revati_predictors.holes import Holes, Prior, known_rows
from revati_predictors.law import fit_law, law_us


@pytest.mark.parametrize("tail", ["normal", "heavy"])
def test_stretched_intervals_hold_on_other_rows(tail: str) -> None:
    random = np.random.default_rng(1)
    error = random.standard_normal(6000) if tail == "normal" else random.standard_t(2, 6000)
    error = 0.03 * error
    for width in (0.004, 0.2):  # much too narrow, much too wide
        low = high = np.full(3000, width)
        factor, extra = stretch_of(error[:3000], low, high)
        inside = np.abs(error[3000:]) <= width * factor + extra
        assert 0.78 < inside.mean() < 0.85


def test_intervals_hold_for_a_region_that_is_unlike_the_others() -> None:
    """Rows of a region share most of their error, and few regions were seen: one more falls outside of theirs."""
    random = np.random.default_rng(3)
    group = np.repeat(np.arange(5), 200)
    low = high = np.full(len(group), 0.02)

    def errors(groups: np.ndarray) -> np.ndarray:
        return 0.05 * random.standard_normal(5)[groups] + 0.01 * random.standard_normal(len(groups))

    def inside(factor: float, extra: float, unseen: np.ndarray) -> float:
        return float(np.mean(np.abs(unseen) <= 0.02 * factor + extra))

    rows, regions, promised = [], [], []
    for _ in range(200):
        error, unseen = errors(group), errors(group[:200])
        factor, extra, coverage = stretch_by_group(error, low, high, group)
        rows.append(inside(*stretch_of(error, low, high), unseen))
        regions.append(inside(factor, extra, unseen))
        promised.append(coverage)
    assert np.mean(rows) < np.mean(regions) - 0.04
    assert 0.77 < np.mean(regions) < 0.88
    assert np.mean(promised) == pytest.approx(np.mean(regions), abs=0.07)


def test_one_region_says_nothing_of_others() -> None:
    error, widths = np.full(500, 0.2), np.full(500, 0.01)
    for few in (0, 10):
        group = np.repeat([0, 1], [500 - few, few])
        assert stretch_by_group(error, widths, widths, group)[:2] == stretch_of(error, widths, widths)


def test_few_rows_get_a_wide_interval() -> None:
    assert stretch_of(np.zeros(5), np.ones(5), np.ones(5)) == (1.5, 0.01)


def test_rows_of_one_node_count_as_their_mean() -> None:
    grid = Grid.from_rows([("a",), ("a",), ("a",)], [np.array([1.0, 1.0, 2.0])], np.array([0.1, 0.3, 0.5]))
    assert grid.y.tolist() == [pytest.approx([0.2, 0.5])]


def _table() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Products whose ratio to the roofline steps with m and drifts with n: (columns, log ratio)."""
    nodes = np.array(
        [(m, n, k) for m in (1, 8, 64, 65, 128, 129, 256) for n in 2 ** np.arange(6, 15) for k in (64, 512, 4096)]
    )
    columns = {c: nodes[:, i].astype(float) for i, c in enumerate("mnk")}
    columns["dtype"] = np.full(len(nodes), "bfloat16", dtype=object)
    return columns, 0.3 * np.ceil(columns["m"] / 64) + 0.05 * np.log2(columns["n"])


def test_a_prior_did_not_see_its_own_products() -> None:
    columns, y = _table()
    gpu, family = find_gpu("h100-sxm"), VARIANTS["gemm"]
    many = {name: np.concatenate([values] * 3) for name, values in columns.items()}
    before = Prior(family, gpu, many, np.concatenate([y] * 3), 1, 30)
    assert before
    own = (columns["n"] == 1024) & (columns["k"] == 512)
    wrong = y + np.where(own, 5.0, 0.0)  # all rows of one (n, k) off by 5
    after = Prior(family, gpu, many, np.concatenate([wrong] * 3), 1, 30)
    assert after.of(columns)[own] == pytest.approx(before.of(columns)[own])
    assert np.abs(after.of(columns) - before.of(columns)).max() > 0.01


def test_holes_are_told_from_neighbours() -> None:
    columns, y = _table()
    gpu, family = find_gpu("h100-sxm"), VARIANTS["gemm"]
    hidden = np.random.default_rng(2).random(len(y)) < 0.15
    seen = {name: values[~hidden] for name, values in columns.items()}
    holes = Holes(family, gpu, seen, y[~hidden], 1, None).fit(60, False)
    rows = known_rows(holes, columns, np.flatnonzero(hidden))
    assert len(rows) > 10
    median, low, high = holes.predict({name: values[rows] for name, values in columns.items()}, False)
    assert np.median(np.abs(median - y[rows])) < 0.05
    assert (low > 0).all() and (high > 0).all()


_MODEL = ("hidden_size", "inter_size", "topk", "num_experts")


def _moe_rows(models: list[tuple[int, int, int, int]], distribution: str = "power_law_1.2") -> dict[str, np.ndarray]:
    rows = np.array(
        [(t, *model, 1, ep) for model in models for t in (1, 8, 64, 512, 4096) for ep in (1, 4) if ep <= model[3]],
        float,
    )
    columns = dict(zip(("num_tokens", *_MODEL, "moe_tp_size", "moe_ep_size"), rows.T))
    return {
        **columns,
        "dtype": np.full(len(rows), "bfloat16", dtype=object),
        "distribution": np.full(len(rows), distribution, dtype=object),
    }


def test_a_law_holds_for_a_model_that_it_never_saw() -> None:
    gpu, family = find_gpu("h100-sxm"), VARIANTS["moe"]
    assert family.terms is not None
    seen = _moe_rows([(2048, 768, 8, 128), (4096, 14336, 2, 8), (5120, 8192, 1, 16), (7168, 2048, 8, 384)])
    unseen = _moe_rows([(3072, 1536, 6, 160)])

    def true_us(columns: dict[str, np.ndarray]) -> np.ndarray:
        factors = np.zeros(family.terms(gpu, columns).shape[1])
        factors[[0, 1, 4, 7]] = 1.5, 1.2, 2.0, 1.8
        return family.terms(gpu, columns) @ factors

    law = fit_law(family, gpu, seen, true_us(seen), _MODEL, 1)
    assert set(law) == {"", "bfloat16"}
    found = law_us(family.terms(gpu, unseen), unseen["dtype"], law)
    assert found == pytest.approx(true_us(unseen), rel=0.02)


@pytest.mark.parametrize("alpha", [1.01, 1.2])
def test_skewed_loads_agree_with_drawn_ones(alpha: float) -> None:
    columns = _moe_rows([(2048, 768, 8, 128), (4096, 1024, 10, 512)], f"power_law_{alpha}")
    random = np.random.default_rng(1)
    pairs, busy, hottest, tiles = moe_loads(columns)
    for i, (tokens, topk, experts, ep) in enumerate(
        zip(*(columns[c].astype(int) for c in ("num_tokens", "topk", "num_experts", "moe_ep_size")))
    ):
        if tokens < 64:
            continue
        drawn = []
        for _ in range(200):
            low, high, one = 1.0, 0.8 * tokens, 1.0 - alpha
            x = ((high**one - low**one) * random.random(experts) + low**one) ** (1.0 / one)
            load = np.rint(x / x.sum() * tokens * topk).reshape(ep, -1)
            rank = load[load.sum(axis=1).argmax()]
            drawn.append((rank.sum(), (rank > 0).sum(), rank.max(), np.ceil(rank / 64).sum()))
        mean = np.mean(drawn, axis=0)
        assert [pairs[i], busy[i], hottest[i], tiles[64][i]] == pytest.approx(mean, rel=0.3)


def test_balanced_loads_are_shared_out() -> None:
    pairs, busy, hottest, tiles = moe_loads(_moe_rows([(2048, 768, 8, 128)], "balanced"))
    # tokens 1, 8, 64, 512, 4096, each with all experts here and with a quarter of them
    assert pairs.tolist() == [8, 2, 64, 16, 512, 128, 4096, 1024, 32768, 8192]
    assert busy.tolist() == [8, 2, 64, 16, 128, 32, 128, 32, 128, 32]
    assert hottest[-1] == 256
    assert tiles[128].tolist()[-2:] == [256, 64]
