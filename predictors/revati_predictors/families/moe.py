"""Fused mixture-of-experts layers."""

from __future__ import annotations

import numpy as np

from revati_predictors import roofline
from revati_predictors.families.base import Columns, Family, Floats, Key, Slot, by_value, code, number, per_dtype
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ConfigIndex

__all__ = ["FAMILY_VARIANTS"]

_MOE_WEIGHT = {"int4_wo": "w4a16", "w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "mxfp4"}


def _skew(columns: Columns) -> Floats:
    return by_value(columns, "distribution", lambda v: float(v.rsplit("_", 1)[1]) if v.startswith("power") else 0.0)


def _moe_columns(columns: Columns) -> tuple[Floats, ...]:
    return tuple(
        number(columns, c)
        for c in ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
    )


def _moe_us(gpu: Gpu, columns: Columns) -> Floats:
    args = _moe_columns(columns)
    return per_dtype(
        columns,
        lambda d, s: np.asarray(roofline.moe_us(gpu, _MOE_WEIGHT.get(d, d), *(a[s] for a in args))),
        len(args[0]),
    )


def _moe_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    tokens, hidden, inter, topk, experts, tp, ep = _moe_columns(columns)
    active, pairs = roofline.moe_active(tokens, topk, experts, ep)
    width = inter / tp
    per_expert = pairs / active
    out = {
        "dtype": code(columns, "dtype"),
        "skew": _skew(columns),
        "log_tokens": np.log2(tokens),
        "topk": topk,
        "log_hidden": np.log2(hidden),
        "log_width": np.log2(width),
        "log_experts": np.log2(experts),
        "log_local": np.log2(np.maximum(1, experts / ep)),
        "log_ep": np.log2(ep),
        "log_tp": np.log2(tp),
        "log_pairs": np.log2(pairs),
        "log_active": np.log2(np.maximum(active, 1e-3)),
        "log_per_expert": np.log2(per_expert),
        "log_global_per_expert": np.log2(tokens * topk / experts),
        "log_weight_bytes": np.log2(active * hidden * width),
        "log_flops": np.log2(pairs * hidden * width),
        "log_token_bytes": np.log2(tokens * hidden),
        "log_pair_bytes": np.log2(pairs * width),
    }
    for tile in (16, 64, 128):
        rows = active * np.ceil(np.maximum(per_expert, 1.0) / tile)
        out[f"fill_{tile}"] = per_expert / tile / np.ceil(per_expert / tile)
        waves = rows * np.ceil(2 * width / 128) / gpu.sms
        out[f"wave_loss_{tile}"] = np.where(waves < 1, waves, np.ceil(waves) / waves)
    return out


def _moe_slots(key: Key, known: ConfigIndex) -> list[Slot | None]:
    """Other splits of the same model; never another routing or data type (see _attention_slots)."""
    dtype, distribution, hidden, inter, topk, experts, tp, ep = key
    out: list[Slot | None] = []

    def add(candidate: Key) -> None:
        out.append((candidate, (1.0,)) if candidate in known and candidate != key else None)

    for factor in (2, 0.5, 4, 0.25):
        add((dtype, distribution, hidden, inter, topk, experts, tp * factor, ep))
    for factor in (2, 0.5, 4, 0.25):
        add((dtype, distribution, hidden, inter, topk, experts, tp, ep * factor))
    return out


_MOE_CONFIG = (
    "dtype",
    "distribution",
    "hidden_size",
    "inter_size",
    "topk",
    "num_experts",
    "moe_tp_size",
    "moe_ep_size",
)


FAMILY_VARIANTS: tuple[Family, ...] = (
    Family(
        "moe",
        "moe",
        _MOE_CONFIG,
        ("num_tokens",),
        _moe_us,
        _moe_physics,
        _moe_slots,
        8,
        edges_by_slots=True,
        text=frozenset({"dtype", "distribution"}),
        soft=("distribution",),
        region=("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"),
    ),
)
