"""Facts about the model that a framework runs, as the observer announces them.

JSON object; unknown keys are ignored. Sizes are those of the whole model, `tp`/`pp`/`ep` say how it is split. Either
the short names below or the names of a Hugging Face config (`_HF_NAMES`) are understood; a missing value is 0 or "".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["NO_FACTS", "ROUTINGS", "ModelFacts"]

_HF_NAMES = {
    "num_attention_heads": "heads_q",
    "num_key_value_heads": "heads_kv",
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "intermediate_size": "intermediate",
    "vocab_size": "vocab",
    "num_local_experts": "experts",
    "num_experts": "experts",
    "n_routed_experts": "experts",
    "num_experts_per_tok": "topk",
    "moe_intermediate_size": "moe_intermediate",
    "n_shared_experts": "shared_experts",
    "sliding_window": "window",
    "kv_cache_dtype": "kv_dtype",
    "torch_dtype": "dtype",
    "quantization_config": "",
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "expert_parallel_size": "ep",
}
_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "auto": "",
    "float": "float32",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "torch.bfloat16": "bfloat16",
    "torch.float16": "float16",
}


# How tokens spread over a layer's experts, as the measured tables name it: all alike, or by a power law.
ROUTINGS = ("power_law_1.01", "power_law_1.2", "balanced")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What mapping launches to operators needs to know about the model."""

    framework: str = ""
    version: str = ""
    dtype: str = "bfloat16"
    kv_dtype: str = ""
    quantization: str = ""  # "", fp8, fp8_block, nvfp4, mxfp4, w4a16
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    vocab: int = 0
    heads_q: int = 0
    heads_kv: int = 0
    head_dim: int = 0
    window: int = 0
    experts: int = 0
    topk: int = 0
    moe_intermediate: int = 0
    shared_experts: int = 0
    kv_lora_rank: int = 0
    tp: int = 1
    pp: int = 1
    ep: int = 1
    moe_distribution: str = ROUTINGS[0]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelFacts:
        """Facts from the announced object. Raises ValueError naming the key whose value has the wrong type."""
        known = {f.name: f for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in data.items():
            name = _HF_NAMES.get(key, key)
            if name not in known or value is None or (key in _HF_NAMES and name in data):
                continue
            wants_int = isinstance(known[name].default, int)
            if wants_int and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"model fact '{key}' must be a number, not {value!r}")
            if not wants_int and not isinstance(value, str):
                raise ValueError(f"model fact '{key}' must be a string, not {value!r}")
            values[name] = int(value) if wants_int else value
        for name in ("dtype", "kv_dtype"):
            if name in values:
                values[name] = _DTYPES.get(values[name].lower(), values[name].lower())
        if not values.get("dtype"):
            values["dtype"] = "bfloat16"
        if not values.get("head_dim") and values.get("heads_q") and values.get("hidden"):
            values["head_dim"] = values["hidden"] // values["heads_q"]
        if not values.get("heads_kv"):
            values["heads_kv"] = values.get("heads_q", 0)
        for name in ("tp", "pp", "ep"):
            values[name] = max(1, values.get(name, 1))
        return cls(**values)

    def local_heads(self) -> tuple[int, int]:
        """(query heads, kv heads) of one tensor-parallel rank."""
        return max(1, self.heads_q // self.tp), max(1, self.heads_kv // self.tp)

    def kv_cache_dtype(self) -> str:
        """fp8, or the model's own type."""
        return "fp8" if self.kv_dtype.startswith("fp8") else (self.kv_dtype or "bfloat16")

    def expert_width(self) -> int:
        """Width of one expert before any split."""
        return self.moe_intermediate or self.intermediate

    def dense_gemms(self) -> list[tuple[int, int]]:
        """(n, k) of the linear layers of one transformer layer on one rank."""
        if not (self.hidden and self.heads_q and self.head_dim):
            return []
        q, kv = self.local_heads()
        out = [((q + 2 * kv) * self.head_dim, self.hidden), (self.hidden, q * self.head_dim)]
        width = self.intermediate if not self.experts else self.shared_experts * self.expert_width()
        if width:
            out += [(2 * width // self.tp, self.hidden), (self.hidden, max(1, width // self.tp))]
        return out


NO_FACTS = ModelFacts()
