"""The storage of weights, from what model configurations say."""

from __future__ import annotations

from typing import Any

import pytest

from revati.frameworks.quantization import quantization_kind


def groups(**weights: Any) -> dict[str, Any]:
    return {"config_groups": {"group_0": {"weights": weights}}}


@pytest.mark.parametrize(
    ("method", "details", "kind"),
    [
        ("", {}, ""),
        ("fp8", {}, "fp8"),
        ("fp8", {"weight_block_size": [128, 128]}, "fp8_block"),
        ("gpt_oss_mxfp4", {"quant_method": "mxfp4"}, "mxfp4"),
        ("modelopt_fp4", {}, "nvfp4"),
        ("awq_marlin", {"bits": 4}, "w4a16"),
        ("compressed-tensors", groups(type="float", num_bits=8, strategy="channel"), "fp8"),
        ("compressed-tensors", groups(type="float", num_bits=8, strategy="block"), "fp8_block"),
        ("compressed-tensors", groups(type="float", num_bits=4, group_size=16), "nvfp4"),
        ("compressed-tensors", groups(type="float", num_bits=4, group_size=32), "mxfp4"),
        ("compressed-tensors", groups(type="int", num_bits=4, group_size=128), "w4a16"),
        ("compressed-tensors", {}, "compressed-tensors"),
        ("bitsandbytes", {}, "bitsandbytes"),
    ],
)
def test_kind(method: str, details: dict[str, Any], kind: str) -> None:
    assert quantization_kind(method, details) == kind
