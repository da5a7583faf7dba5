from __future__ import annotations

from collections import Counter

import pytest

from revati.calibration.cells import COLUMNS, MODELS, Cell, cells_for_steps, plan_cells, seconds, within


def test_every_cell_is_asked_for_once_and_has_its_familys_columns() -> None:
    cells = plan_cells()
    assert max(Counter(c.key for c in cells).values()) == 1
    assert all(len(c.params) == len(COLUMNS[c.family]) for c in cells)
    assert {c.family for c in cells} == set(COLUMNS)


def test_a_plan_cut_anywhere_in_a_tier_holds_an_even_share_of_each_family() -> None:
    cells = [c for c in plan_cells() if c.tier == 1]
    total, half = Counter(c.family for c in cells), Counter(c.family for c in cells[: len(cells) // 2])
    for family, count in total.items():
        assert abs(half[family] / count - 0.5) <= 0.5 / count + 0.02, family


def test_tiers_come_in_order_and_tier_0_holds_the_products_of_a_decode_step() -> None:
    cells = plan_cells()
    assert [c.tier for c in cells] == sorted(c.tier for c in cells)
    first = {c.params for c in cells if c.family == "gemm" and c.tier == 0}
    llama = MODELS["llama-3.1-8b"]
    for _, n, k in llama.gemms():
        assert ("bfloat16", 8, n, k) in first


def test_held_out_shapes_are_a_fixed_share_and_ignore_the_cache_state() -> None:
    cells = [c for c in plan_cells() if c.tier > 0]
    share = sum(c.split == "test" for c in cells) / len(cells)
    assert 0.12 < share < 0.18
    assert all(c.split == "train" for c in plan_cells(tiers=[0]))
    cold = Cell("gemm", ("bfloat16", 7, 64, 64), "cold", 1)
    assert cold.split == Cell("gemm", ("bfloat16", 7, 64, 64), "warm", 1).split


def test_model_shapes_give_the_published_weight_sizes() -> None:
    llama = MODELS["llama-3.1-8b"]
    per_layer = sum(n * k for name, n, k in llama.gemms() if name != "lm_head")
    total = llama.layers * per_layer + 2 * llama.vocab * llama.hidden
    assert total == pytest.approx(8.03e9, rel=0.001)
    moe = MODELS["qwen3-30b-a3b"]
    experts = moe.layers * moe.experts * 3 * moe.hidden * moe.inter
    rest = moe.layers * sum(n * k for name, n, k in moe.gemms() if name != "lm_head") + 2 * moe.vocab * moe.hidden
    assert experts + rest == pytest.approx(30.5e9, rel=0.01)


def test_a_budget_takes_leading_cells_only() -> None:
    cells = plan_cells()
    part = within(cells, 20)
    assert part == cells[: len(part)]
    assert sum(map(seconds, part)) <= 20 < sum(map(seconds, cells[: len(part) + 1]))


def test_a_case_needs_only_its_own_models_cells() -> None:
    needed = cells_for_steps("qwen3-30b-a3b", 256, 8192, 4096)
    assert any(c.family == "moe" for c in needed)
    assert not any(c.family == "gemm" and 14336 in c.params for c in needed)
    small = cells_for_steps("qwen3-30b-a3b", 4, 64, 512)
    assert len(small) < len(needed)


@pytest.mark.parametrize("arguments", [{"models": ["gpt-9"]}, {"families": ["gem"]}])
def test_an_unknown_name_is_named(arguments: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"gpt-9|gem"):
        plan_cells(**arguments)
