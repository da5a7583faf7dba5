"""Everything else in a transformer layer, as whole operators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from revati_predictors import roofline
from revati_predictors.families.base import Columns, Family, Floats, Key, Slot, by_value, number, plain_physics
from revati_predictors.families.gemm import waves
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ConfigIndex

__all__ = ["FAMILY_VARIANTS"]

_LAYER_SIZES = ("n_head", "n_kv_head", "hidden", "inter", "vocab", "tp", "gated")


def _layer_shape(columns: Columns) -> tuple[NDArray[np.bool_], Floats, Floats, Floats]:
    """(is a product, n, k, bytes per token of a streaming operator) of rows of layer_ops with model sizes."""
    op = np.asarray(columns["op"])
    heads, kv, hidden, inter, vocab, tp, gated = (number(columns, c) for c in _LAYER_SIZES)
    head_dim = hidden / heads
    kv_local = np.maximum(1.0, kv / tp)
    qkv = heads / tp * head_dim + 2 * kv_local * head_dim
    up = inter / tp * (1.0 + gated)
    n = np.select(
        [
            op == "attn_pre_proj",
            op == "attn_post_proj",
            op == "mlp_up_proj",
            op == "mlp_down_proj",
            op == "lm_head_linear",
            op == "lm_head",
        ],
        [qkv, hidden, up, hidden, vocab / tp, vocab / tp],
        0.0,
    )
    k = np.select([op == "attn_post_proj", op == "mlp_down_proj"], [hidden / tp, inter / tp], hidden)
    per_token = np.select(
        [op == "mlp_act", op == "attn_rope", op == "add"], [3.0 * inter / tp, 2.0 * qkv, 3.0 * hidden], 2.5 * hidden
    )
    return n > 0, n, k, 2.0 * per_token


def _layer_us(gpu: Gpu, columns: Columns) -> Floats:
    product, n, k, per_token = _layer_shape(columns)
    m = number(columns, "num_tokens")
    us = np.asarray(roofline.stream_us(gpu, per_token * m))
    if product.any():
        us[product] = roofline.gemm_us(gpu, "bfloat16", m[product], n[product], k[product])
    return us


def _layer_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    product, n, k, per_token = _layer_shape(columns)
    m = number(columns, "num_tokens")
    return {
        "log_m": np.log2(m),
        "log_n": np.log2(n + 1),
        "log_k": np.log2(k),
        "log_bytes": np.log2(per_token * m),
        "product": product.astype(float),
        "op": by_value(columns, "op", lambda v: float(sum(map(ord, v)) % 997)),
        **waves(gpu, m, np.maximum(n, 1)),
    }


def _layer_slots(key: Key, known: ConfigIndex) -> list[Slot | None]:
    """Another split of the same model, then other models: nothing but `tp` is comparable without its physics."""
    at = 2
    found = (known.next_to(key, at, up) for up in (False, True))
    return [(f, (1.0,)) if f else None for f in found]


def _plain_layer_us(gpu: Gpu, columns: Columns) -> Floats:
    """Rows without model sizes: a floor and something that grows with tokens."""
    return gpu.floor_us + 0.05 * number(columns, "num_tokens")


def _moe_layer_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    tokens, topk, local, ep, tp, hidden, inter = (
        number(columns, c) for c in ("num_tokens", "topk", "experts_per_device", "ep", "tp", "hidden", "inter")
    )
    pairs = tokens * topk / ep
    return {
        **plain_physics("num_tokens")(gpu, columns),
        "op": by_value(columns, "op", lambda v: float(sum(map(ord, v)) % 997)),
        "log_experts": np.log2(number(columns, "num_experts")),
        "log_local": np.log2(local),
        "topk": topk,
        "ep": ep,
        "tp": tp,
        "log_hidden": np.log2(hidden),
        "log_width": np.log2(inter / tp),
        "log_pairs": np.log2(pairs),
        "log_weights": np.log2(np.minimum(pairs, local) * hidden * inter / tp),
    }


def _moe_layer_slots(key: Key, known: ConfigIndex) -> list[Slot | None]:
    """Other splits of the same model's experts."""
    model, op, experts, local, ep, tp, *rest = key
    out: list[Slot | None] = []
    for local_by, ep_by, tp_by in ((1, 1, 2), (1, 1, 0.5), (2, 0.5, 1), (0.5, 2, 1)):
        other = (model, op, experts, local * local_by, ep * ep_by, tp * tp_by, *rest)
        out.append((other, (1.0,)) if other in known else None)
    return out


FAMILY_VARIANTS: tuple[Family, ...] = (
    Family(
        "layer_ops",
        "layer_ops",
        ("model", "op", "tp", "source", "n_head", "n_kv_head", "hidden", "inter", "vocab", "gated"),
        ("num_tokens",),
        _layer_us,
        _layer_physics,
        _layer_slots,
        2,
        text=frozenset({"model", "op", "source"}),
        region=("model",),
        soft=("source",),
    ),
    Family(
        "layer_ops_moe",
        "layer_ops",
        (
            "model",
            "op",
            "num_experts",
            "experts_per_device",
            "ep",
            "tp",
            "topk",
            "hidden",
            "inter",
            "load",
            "dtype",
        ),
        ("num_tokens",),
        _plain_layer_us,
        _moe_layer_physics,
        _moe_layer_slots,
        4,
        text=frozenset({"model", "op", "load", "dtype"}),
        checked_dtypes=False,
    ),
    Family(
        "layer_ops_eager",
        "layer_ops",
        ("model", "op", "tp"),
        ("num_tokens",),
        _plain_layer_us,
        plain_physics("num_tokens"),
        _layer_slots,
        2,
        text=frozenset({"model", "op"}),
    ),
)
