"""NVML, torch and vLLM's state kernels on the virtual device: what a program reads back is what a card would say."""

from __future__ import annotations

import math

import pytest

from tests.frameworks.emulated import emulate, need, need_v2_runner

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("visible", [None, "1"])
def test_nvml_describes_the_catalogue(visible: str | None) -> None:
    need("pynvml")
    facts = emulate("nvml_facts.py", gpu="h100-sxm:2", **({"CUDA_VISIBLE_DEVICES": visible} if visible else {}))
    assert facts["cuda"] >= 12000
    assert len(facts["gpus"]) == 2, "NVML shows every GPU, whatever CUDA_VISIBLE_DEVICES says"
    for i, gpu in enumerate(facts["gpus"]):
        assert gpu["name"] == "NVIDIA H100 80GB HBM3"
        assert gpu["capability"] == [9, 0]
        assert gpu["index"] == gpu["by_uuid"] == gpu["by_pci"] == i
        total, free, used = gpu["bytes"]
        assert total == free + used and total > 79 << 30
        assert sum(gpu["bytes_v2"][1:]) == total
        assert gpu["links"] == 18 and gpu["link_0"] == 1 and gpu["link_mbps"] > 25000
        assert gpu["fabric"] == 3
        assert gpu["limit_watts"] == 700 and 0 < gpu["watts"] <= 700
        assert gpu["peers"] == [0]
        assert gpu["utilisation"] == 0 and gpu["processes"] == 0
    assert facts["gpus"][0]["uuid"] != facts["gpus"][1]["uuid"]
    assert facts["after_shutdown"] == "uninitialized"


def test_torch_reads_back_what_its_kernels_wrote() -> None:
    need("torch")
    got = emulate("torch_kernels.py")
    assert got["ones"] == [1.0] * 5
    assert got["full_long"] == [7] * 3
    assert got["new_ones"] == [1] * 4
    assert got["fill_bool"] == [True] * 4
    assert got["arange_int"] == [2, 4, 6, 8]
    assert got["arange_long"] == [0, 1, 2, 3, 4]
    assert got["arange_float"] == [0, 0.25, 0.5, 0.75]
    assert got["cast_int_long"] == got["cast_int_float"] == got["clone"] == [3, 4, 5]
    assert got["cast_long_int"] == [1 << 20, -7]
    assert got["stale"] == [], "bytes of an earlier tensor shone through"
    assert all(0 <= token < 32000 for token in got["argmax"])
    for name in ("top_k_int32", "top_k_int64"):
        assert got[name] == [[False, True, False], [10, 1, 3], 10, 1, [9, 0, 2], [15, 6, 8]]
    assert got["long"] == [2999, [2999], [-3, -2, -1, 0]]
    assert got["shapes"] == [[64, 6144], [64, 6144], [4, 8, 8], [64, 6144]]
    assert got["gemm_ms"] == pytest.approx(0.01)
    assert got["graph_fill"] == [9] * 4
    assert got["graph_ms"] == pytest.approx(0.02), "the two kernels of the graph, one after the other"


def test_vllm_state_advances_as_on_a_card() -> None:
    need_v2_runner()
    got = emulate("vllm_state.py")
    assert got["staged_elements"] == [0, 0, 0, 42, 0, 7, 0, 0]
    assert got["staged_rows"] == [[0] * 8, [0, 0, 9, 8, 7, 0, 0, 0], [0] * 8, [1] + [0] * 7]
    assert got["seq_lens"] == [5, 2, 0, 0, 0, 0, 0, 0]
    assert got["logits_at"] == [4, 6]
    assert got["sampled"] == got["sampled_again"]
    assert all(0 <= token < 32000 for token in got["sampled"])
    assert got["num_sampled"] == [1, 0], "an unfinished prompt samples nothing"
    assert got["num_rejected"] == [0, 0]
    assert got["computed"] == [5, 2]
    assert got["total_len"] == [6, 6]
    assert got["token_ids"] == [100, 101, 102, 103, 104, got["sampled"][0]]
    assert got["nans"] == [0, 0] and got["ranks"] == [1, 1]
    for token, ids, values in zip(got["sampled"], got["logprob_ids"], got["logprobs"]):
        assert ids[0] == token and len(set(ids[1:])) == 4 and all(0 <= i < 32000 for i in ids)
        assert all(math.isfinite(v) and v < 0 for v in values)
        assert sum(math.exp(v) for v in values[1:]) < 1
