"""Fused mixture-of-experts layers."""

from __future__ import annotations

import numpy as np

from revati_predictors import roofline
from revati_predictors.families.base import Columns, Family, Floats, Key, Slot, by_value, code, number, per_dtype
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ConfigIndex
from revati_predictors.operators import DTYPE_BYTES

__all__ = ["FAMILY_VARIANTS", "moe_loads"]

_TILES = (16, 64, 128)  # rows
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


Loads = tuple[Floats, Floats, Floats, dict[int, Floats]]


def moe_loads(columns: Columns) -> Loads:
    """(pairs, experts with work, pairs of the busiest expert, row tiles by height) of the most loaded rank.

    Balanced tables deal the tokens out in turn; the skewed ones draw every expert's share from a power law cut off at
    0.8 of the tokens, and time the rank with most of them (its busiest expert, and average ones beside it).
    """
    tokens, _, _, topk, experts, _, ep = _moe_columns(columns)
    alpha = _skew(columns)
    local, pairs = np.maximum(1.0, experts / ep), tokens * topk
    here = np.maximum(1.0, pairs / ep)
    busy = np.minimum(local, here)
    tiles = {h: busy * np.ceil(np.maximum(here / busy, 1.0) / h) for h in _TILES}
    out = here, busy, np.maximum(1.0, pairs / experts), tiles
    skewed = alpha > 0
    if skewed.any():
        drawn = _skewed_loads(tokens, pairs, experts, ep, local, np.where(skewed & (alpha != 1), alpha, 1.01))
        here, busy, hottest = (np.where(skewed, d, o) for d, o in zip(drawn[:3], out[:3]))
        out = here, busy, hottest, {h: np.where(skewed, drawn[3][h], tiles[h]) for h in _TILES}
    return out


def _skewed_loads(tokens: Floats, pairs: Floats, experts: Floats, ep: Floats, local: Floats, alpha: Floats) -> Loads:
    some = pairs > experts
    low, high = np.where(some, 1.0, 0.01), np.where(some, np.maximum(0.8 * tokens, 1.0001), 2.0)
    one, two = 1.0 - alpha, 2.0 - alpha  # exponents of the integrals of x^-alpha and of x x^-alpha
    span = high**one - low**one

    def below(x: Floats) -> Floats:  # share of the experts
        return (x**one - low**one) / span

    def mass(x: Floats) -> Floats:  # what they have, in units of x
        return (x**two - low**two) / two * one / span

    scale = pairs / (experts * mass(high))  # pairs per unit of x
    hottest = scale * (low**one + span * (1.0 - 0.5 / experts)) ** (1.0 / one)
    hottest = np.minimum(hottest, np.minimum(tokens, pairs))
    average = (pairs - hottest) / np.maximum(experts - 1.0, 1.0)
    here = np.where(ep > 1, hottest + (local - 1.0) * average, pairs)
    idle = np.clip(0.5 / scale, low, high)
    busy = np.clip(local * (1.0 - below(idle)), np.minimum(1.0, here), local)
    tiles = {}
    for height in _TILES:
        full = np.maximum(np.clip(height / scale, low, high), idle)
        partly = below(full) - below(idle) + 0.5 * (1.0 - below(full))
        count = local * (partly + (mass(high) - mass(full)) * scale / height)
        tiles[height] = np.maximum(count, np.ceil(hottest / height))
    return np.maximum(here, 1.0), np.maximum(busy, 1.0), np.maximum(hottest, 1.0), tiles


def _moe_terms(gpu: Gpu, columns: Columns) -> Floats:
    """Microseconds that parts of the layer would take at the card's peaks [rows, terms]; see Family.terms."""
    tokens, hidden, inter, topk, experts, tp, _ = _moe_columns(columns)
    width = inter / tp
    pairs, busy, hottest, tiles = moe_loads(columns)
    weight = by_value(columns, "dtype", lambda d: DTYPE_BYTES.get(_MOE_WEIGHT.get(d, d), 2.0))
    byte, flop = 1e6 / gpu.hbm_bytes_s, 1e6 / gpu.flops_bf16
    waves = [np.ceil(tiles[64] * np.ceil(columns_of / 128) / gpu.sms) for columns_of in (2 * width, hidden)]
    return np.column_stack(
        [
            np.full(len(tokens), 10.0),  # launches
            3 * busy * hidden * width * weight * byte,  # weights
            6 * pairs * (hidden + width) * byte,  # rows of this rank
            8 * tokens * hidden * byte,  # input and output
            2 * tokens * topk * hidden * byte,  # what the combination reads, also for experts of other ranks
            6 * tokens * topk * width * byte,
            *(6 * count * height * hidden * width * flop for height, count in tiles.items()),
            (waves[0] * hidden + waves[1] * width) * 64 * 128 * 2 * gpu.sms * flop,  # whole waves
            48 / gpu.sms * hottest * hidden * width * flop,  # the busiest expert on its share of the processors
            0.01 * experts,  # sorting
        ]
    )


def _moe_apart(gpu: Gpu, columns: Columns, terms: Floats) -> dict[str, Floats]:
    """Features of a model without measured relatives: which part of the work dominates, not which model it is."""
    out = _moe_physics(gpu, columns)
    del out["log_experts"], out["log_hidden"]
    _, hidden, inter, _, _, tp, _ = _moe_columns(columns)
    for name, size in (("hidden", hidden), ("width", inter / tp)):
        whole = np.maximum(size, 1.0).astype(np.int64)
        out[f"align_{name}"] = np.log2(np.minimum(whole & -whole, 256))  # odd widths meet slow kernels
    total = terms[:, [0, 1, 4, 7]].sum(axis=1)
    out["log_total"] = np.log(total)
    parts = np.log(terms / total[:, None])
    for i in range(1, terms.shape[1]):
        out[f"part_{i}"] = parts[:, i]
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
        terms=_moe_terms,
        apart=_moe_apart,
    ),
)
