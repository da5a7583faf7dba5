"""Batches of prefills and decodes in one attention call."""

from __future__ import annotations

import numpy as np

from revati_predictors import roofline
from revati_predictors.families.base import Columns, Family, Floats, number
from revati_predictors.gpus import Gpu

__all__ = ["FAMILY_VARIANTS"]


def _mixed_us(gpu: Gpu, columns: Columns) -> Floats:
    heads, kv_heads, hd = (number(columns, c) for c in ("heads_q", "heads_kv", "head_dim"))
    chunk, cached, n, kv = (number(columns, c) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
    floor = 3.0 * gpu.floor_us
    prefill = (
        np.asarray(
            roofline.attention_us(
                gpu, 1.0, np.maximum(chunk, 2.0), np.maximum(chunk, 2.0) + cached, heads, kv_heads, hd, 2.0
            )
        )
        - floor
    )
    decode = np.asarray(roofline.attention_us(gpu, np.maximum(n, 1.0), 1.0, kv + 1.0, heads, kv_heads, hd, 2.0)) - floor
    return np.asarray(floor + np.where(chunk > 0, prefill, 0.0) + np.where(n > 0, decode, 0.0))


def _mixed_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    heads, kv_heads = number(columns, "heads_q"), number(columns, "heads_kv")
    chunk, cached, n, kv = (number(columns, c) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
    waves = heads * np.ceil(chunk / 128) / gpu.sms
    total = waves + n * kv_heads / gpu.sms
    return {
        "chunk": np.log2(chunk + 1),
        "cached": np.log2(cached + 1),
        "n": np.log2(n + 1),
        "kv": np.log2(kv + 1),
        "hq": heads,
        "hkv": kv_heads,
        "prefill_work": np.log2(chunk * (cached + chunk / 2) * heads + 1),
        "decode_work": np.log2(n * kv * kv_heads + 1),
        "waves": waves,
        "total_waves": total,
        "wave_loss": np.ceil(total) / np.maximum(total, 1e-6),
    }


_LISTS = ("prefill_seq_lens", "prefill_kv_cache_sizes", "decode_kv_cache_sizes", "seq_lens")


def _numbers(text: str) -> Floats:
    return np.array([float(part) for part in text.replace(",", " ").split()], float)


def _lists_batches(columns: Columns) -> list[tuple[Floats, Floats, Floats]]:
    """(new tokens and cached tokens of the prefills, keys of the decodes) of every row."""
    out = []
    sizes = number(columns, "kv_cache_size").tolist()
    for mode, lens, cached, decodes, even, prefill, size in zip(
        *(columns[c].tolist() for c in ("mode", *_LISTS, "is_prefill")), sizes
    ):
        if mode == "true_mixed":
            new, old, keys = _numbers(lens), _numbers(cached), _numbers(decodes)
            old = old if len(old) == len(new) else np.zeros(len(new))
        elif prefill == "True":
            new, keys = _numbers(even), np.zeros(0)
            old = np.full(len(new), size)
        else:
            new, old, keys = np.zeros(0), np.zeros(0), np.full(len(_numbers(even)), size)
        out.append((new, old, keys))
    return out


def _lists_sums(gpu: Gpu, columns: Columns) -> tuple[Floats, Floats, Floats]:
    """(prefill roofline, decode roofline, tokens) of every row, from its individual sequences."""
    heads, kv_heads, _width = (number(columns, c) for c in ("n_q_head", "n_kv_head", "n_embd"))
    floor = 3.0 * gpu.floor_us
    sums = np.zeros((3, len(heads)))
    for row, (new, old, keys) in enumerate(_lists_batches(columns)):
        hq, hkv, hd = max(1.0, heads[row]), max(1.0, kv_heads[row]), 128.0
        if len(new):
            each = roofline.attention_us(gpu, float(len(new)), new, new + old, hq, hkv, hd, 2.0)
            sums[0, row] = float(np.mean(each)) - floor
        if len(keys):
            each = roofline.attention_us(gpu, float(len(keys)), 1.0, keys + 1.0, hq, hkv, hd, 2.0)
            sums[1, row] = float(np.mean(each)) - floor
        sums[2, row] = new.sum() + len(keys)
    return sums[0], sums[1], sums[2]


def _lists_us(gpu: Gpu, columns: Columns) -> Floats:
    prefill, decode, _ = _lists_sums(gpu, columns)
    return 3.0 * gpu.floor_us + prefill + decode


def _lists_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    prefill, decode, tokens = _lists_sums(gpu, columns)
    batches = _lists_batches(columns)
    return {
        "prefill": prefill,
        "decode": decode,
        "tokens": tokens,
        "heads": number(columns, "n_q_head"),
        "kv_heads": number(columns, "n_kv_head"),
        "width": number(columns, "n_embd"),
        "tp": number(columns, "tp"),
        "prefills": np.array([len(new) for new, _, _ in batches], float),
        "decodes": np.array([len(keys) for _, _, keys in batches], float),
        "longest": np.array([float(max([0.0, *new, *keys])) for new, _, keys in batches]),
        "longest_cached": np.array([float(max([0.0, *old])) for _, old, _ in batches]),
        "mixed": (np.asarray(columns["mode"]) == "true_mixed").astype(float),
    }


FAMILY_VARIANTS: tuple[Family, ...] = (
    Family(
        "attn_mixed",
        "attn_mixed",
        ("model", "tp", "heads_q", "heads_kv", "head_dim"),
        ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"),
        _mixed_us,
        _mixed_physics,
        text=frozenset({"model"}),
        soft=("tp", "model"),
    ),
    Family(
        "attn_mixed_lists",
        "attn_mixed",
        (),
        (),
        _lists_us,
        _lists_physics,
        text=frozenset({"mode", "is_prefill", *_LISTS}),
        extra=("mode", "is_prefill", "kv_cache_size", "n_q_head", "n_kv_head", "n_embd", "tp", *_LISTS),
        time_columns=("lat_us_attn_prefill", "lat_us_attn_decode", "lat_us_attn_kv_cache_save"),
    ),
)
