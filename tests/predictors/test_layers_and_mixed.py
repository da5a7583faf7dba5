"""What tables of layers and of mixed batches add: products, streams and batches of cards that have no other tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from revati_predictors import find_gpu, load_predictor
from revati_predictors.families import Columns, Family
from revati_predictors.learned_predictor import LearnedPredictor
from revati_predictors.operators import Attention, Gemm, Stream
from revati_predictors.predictor import EXTRAPOLATED, FALLBACK, INTERPOLATED, Estimate
from revati_predictors.tables import layer_products, layer_widths, stream_bytes


def _attention(*seqs: tuple[int, int]) -> Attention:
    return Attention(tuple(seqs), 32, 8, 128, "bfloat16", "bfloat16", 0)


def test_layers_become_products() -> None:
    columns = {
        "model": np.array(["meta-llama/Llama-3.1-8B"] * 3 + ["somebody/else"], dtype=object),
        "tp": np.array([1.0, 1.0, 2.0, 1.0]),
        "op": np.array(["qkv_proj", "layernorm", "down_proj", "qkv_proj"], dtype=object),
        "num_tokens": np.array([16.0, 16.0, 32.0, 8.0]),
        "us": np.array([56.0, 2.0, 70.0, 9.0]),
    }
    products, rows = layer_products(columns)
    assert rows.tolist() == [0, 2]
    assert [products[c].tolist() for c in ("m", "n", "k", "us")] == [[16, 32], [6144, 4096], [4096, 7168], [56, 70]]
    assert layer_widths("somebody/else", 1) is None and stream_bytes("somebody/else", 1) is None


def test_products_of_a_card_with_layers_only_are_its_own() -> None:
    """One token reads every weight once: an RTX 4090 (1,008 GB/s) needs 8 to 25 % more than that; not another card."""
    predictor = load_predictor("rtx-4090", "auto", "vllm", "0.19.0")
    for n, k in ((6144, 4096), (28672, 4096), (4096, 14336)):
        (one,) = predictor.predict([Gemm(1, n, k)])
        assert one.source <= INTERPOLATED
        assert 1.0 < one.us / (2e6 * n * k / 1008e9) < 1.25


@pytest.mark.parametrize(("gpu", "version", "own"), [("rtx-4090", "0.19.0", True), ("rtx-4090", "0.25.1", True)])
def test_decodes_of_a_card_with_mixed_batches_only(gpu: str, version: str, own: bool) -> None:
    predictor = load_predictor(gpu, "auto", "vllm", version)
    estimates = predictor.predict([_attention(*[(1, 1025)] * n) for n in (8, 32, 128)])
    assert all((e.source <= INTERPOLATED) == own for e in estimates)
    assert estimates[0].us < estimates[1].us < estimates[2].us


def test_a_table_of_the_running_version_goes_first() -> None:
    """The RTX PRO 6000 has decode tables of vLLM 0.24 and mixed batches of vLLM 0.19: each version gets its own."""
    batch = [_attention(*[(1, 1025)] * 64)]
    old, new = (load_predictor("rtx-pro-6000", "auto", "vllm", v).predict(batch)[0] for v in ("0.19.0", "0.24.0"))
    assert old.us != new.us and 0.7 < old.us / new.us < 1.4


def test_prompts_beside_decodes_cost_what_they_are_not_their_sum_as_one_prompt() -> None:
    predictor = load_predictor("rtx-pro-6000", "auto", "vllm", "0.19.0")
    decodes = [(1, 1000)] * 32
    one, three, small = predictor.predict(
        [
            _attention((1800, 1800), *decodes),
            _attention((600, 600), (600, 600), (600, 600), *decodes),
            _attention((600, 600), *decodes),
        ]
    )
    assert small.us < three.us < one.us


def test_streams_come_from_the_layers_of_the_own_card() -> None:
    norm = Stream("norm", 8.0 * 4096 * 256, 256, 4096)
    wider = Stream("norm", 8.0 * 6144 * 256, 256, 6144)
    far = Stream("norm", 8.0 * 32768 * 256, 256, 32768)
    odd = Stream("metadata", 4096.0)
    own, scaled, beyond, other = load_predictor("rtx-4090", "auto", "vllm", "0.19.0").predict([norm, wider, far, odd])
    assert own.source <= INTERPOLATED and scaled.source == EXTRAPOLATED and own.us < scaled.us < 1.6 * own.us
    assert beyond.source == other.source == FALLBACK
    assert load_predictor("h200-sxm").predict([norm])[0].source == FALLBACK


def test_a_measured_layer_goes_before_another_versions_table_and_only_there() -> None:
    ops = [Gemm(512, 6144, 4096), Gemm(512, 6000, 4096)]
    old = load_predictor("rtx-pro-6000", "auto", "vllm", "0.19.0").predict(ops)
    new = load_predictor("rtx-pro-6000", "auto", "vllm", "0.24.0").predict(ops)
    assert old[0].us != new[0].us and 0.8 < old[0].us / new[0].us < 1.25
    assert old[1] == new[1]


def test_a_step_later_most_rows_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more key in every sequence changes few pages, so few rows are evaluated; a page is 16 keys."""
    predictor = load_predictor("h100-sxm", "auto", "vllm", "0.25.1")
    asked: list[int] = []
    rows = LearnedPredictor.rows

    def counted(self: LearnedPredictor, family: Family, columns: Columns, *rest: Any) -> Any:
        asked.append(len(next(iter(columns.values()))))
        return rows(self, family, columns, *rest)

    monkeypatch.setattr(LearnedPredictor, "rows", counted)
    lengths = (100, 207, 305, 411, 518)

    def step(number: int) -> Estimate:
        return predictor.predict([_attention(*((1, n + number) for n in lengths))])[0]

    first = step(0)
    assert sum(asked) == len(lengths) + 1  # and the longest alone
    later = [step(number) for number in range(1, 17)]
    assert sum(asked) <= 2 * (len(lengths) + 1), "each sequence enters one new page in 16 steps"
    assert later[-1].us >= first.us


def test_products_of_layers_stand_for_what_was_measured() -> None:
    """The layers of vLLM 0.19 were measured up to 2,048 tokens: beyond them the table of vLLM 0.24 goes on."""
    sizes = (1024, 8192)
    ops = [Gemm(m, 28672, 4096) for m in sizes]
    own, other = (load_predictor("rtx-pro-6000", "auto", "vllm", v).predict(ops) for v in ("0.19.0", "0.24.0"))
    assert own[0] != other[0]
    assert own[1] == other[1]
    assert 2 * sizes[1] * 28672 * 4096 / own[1].us * 1e6 < find_gpu("rtx-pro-6000").flops_bf16


def test_a_wave_that_is_not_full_costs_little_while_memory_bounds() -> None:
    """A100: the bandwidth that a layer of 28672 columns reaches lies between those of the measured neighbours."""
    predictor = load_predictor("a100-sxm", "auto", "vllm", "0.14.0")
    few, layer, many = (
        e.us / n for e, n in ((predictor.predict([Gemm(8, n, 4096)])[0], n) for n in (16384, 28672, 65536))
    )
    assert many < 1.03 * layer and layer < 1.03 * few
