"""How a served model's weights are stored, in the names that the predictors know (revati_predictors.facts)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["quantization_kind"]

# Names of vLLM's methods (vllm/model_executor/layers/quantization) that say it all.
_KINDS = {
    "gpt_oss_mxfp4": "mxfp4",
    "modelopt": "fp8",
    "modelopt_fp4": "nvfp4",
    "fbgemm_fp8": "fp8",
    "fp8_per_tensor": "fp8",
    "fp8_per_channel": "fp8",
    "fp8_per_block": "fp8_block",
    "deepseek_v4_fp8": "fp8_block",
    "int8_per_channel_weight_only": "int8",
    "experts_int8": "int8",
    **dict.fromkeys(("awq", "awq_marlin", "auto_awq", "gptq", "gptq_marlin", "auto_gptq", "moe_wna16"), "w4a16"),
}


def quantization_kind(method: str, details: Mapping[str, Any]) -> str:
    """One of "", fp8, fp8_block, nvfp4, mxfp4, w4a16, int8; a method that is not known stays as it is.

    method: the framework's name of it. details: the `quantization_config` of the model's configuration.
    """
    if method == "fp8" and details.get("weight_block_size"):
        return "fp8_block"
    if method == "compressed-tensors":
        return _compressed_tensors(details) or method
    return _KINDS.get(method, method)


def _compressed_tensors(details: Mapping[str, Any]) -> str:
    groups = details.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        return ""
    weights = group["weights"]
    kind = (weights.get("type"), weights.get("num_bits"))
    if kind == ("float", 8):
        return "fp8_block" if weights.get("strategy") == "block" else "fp8"
    if kind == ("float", 4):
        return "mxfp4" if weights.get("group_size") == 32 else "nvfp4"
    return {("int", 4): "w4a16", ("int", 8): "int8"}.get(kind, "")
