"""Attention over equal sequences, prefill and decode."""

from __future__ import annotations

import numpy as np

from revati_predictors import roofline
from revati_predictors.families.base import Columns, Family, Floats, Key, Slot, code, kv_bytes, number
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ConfigIndex

__all__ = ["FAMILY_VARIANTS"]


def _attention_us(gpu: Gpu, columns: Columns, decode: bool) -> Floats:
    kv = number(columns, "kv_len")
    q = np.ones(len(kv)) if decode else number(columns, "q_len")
    hq, hkv, hd = (number(columns, c) for c in ("num_heads", "num_kv_heads", "head_dim"))
    window = number(columns, "window_size")
    batch = number(columns, "batch_size")
    us = np.asarray(roofline.attention_us(gpu, batch, q, kv, hq, hkv, hd, kv_bytes(columns), window))
    fp8 = np.asarray(columns["q_dtype"]) == "fp8"
    if fp8.any():
        low = np.asarray(roofline.attention_us(gpu, batch, q, kv, hq, hkv, hd, kv_bytes(columns), window, "fp8"))
        us = np.where(fp8, low, us)
    return us


def _attention_physics(gpu: Gpu, columns: Columns, decode: bool) -> dict[str, Floats]:
    kv, batch = number(columns, "kv_len"), number(columns, "batch_size")
    q = np.ones(len(kv)) if decode else number(columns, "q_len")
    hq, hkv, hd = (number(columns, c) for c in ("num_heads", "num_kv_heads", "head_dim"))
    window = number(columns, "window_size")
    seen = np.where(window > 0, np.minimum(window, kv), kv)
    work = np.asarray(roofline.attention_work(q, kv, window))
    blocks = batch * hkv if decode else batch * hq * np.ceil(q / 128.0)
    waves = blocks / gpu.sms
    out = {
        "q_dtype": code(columns, "q_dtype"),
        "kv_dtype": code(columns, "kv_dtype"),
        "log_batch": np.log2(batch),
        "log_kv": np.log2(kv),
        "log_seen": np.log2(seen),
        "log_q": np.log2(q),
        "hq": hq,
        "hkv": hkv,
        "group": hq / hkv,
        "head_dim": hd,
        "window": window,
        "log_blocks": np.log2(blocks),
        "log_work": np.log2(work * batch * hq * hd),
        "log_kv_bytes": np.log2(batch * seen * hkv * hd),
        "log_tokens": np.log2(batch * q * hq * hd),
        "wave_loss": np.where(waves < 1, waves, np.ceil(waves) / waves),
        "wave_loss_2": np.where(waves < 0.5, 2 * waves, np.ceil(2 * waves) / (2 * waves)),
        "splits": np.floor(gpu.sms / np.maximum(batch * hkv, 1.0)),
    }
    if not decode:
        out.update(_schedules(gpu, q, seen, batch, hq, hkv))
    return out


_SCHEDULES = ("64", "128", "192", "packed")
_TILES = np.array([64.0, 128.0, 192.0, 128.0])[:, None]
_TURNS = np.arange(12.0)[:, None, None]


def _schedules(gpu: Gpu, q: Floats, seen: Floats, batch: Floats, hq: Floats, hkv: Floats) -> dict[str, Floats]:
    """How causal query tiles of growing length fill the SMs, the longest first, for each kind of tile.

    A packed tile holds the query heads of a KV head side by side.
    """
    plain = len(_SCHEDULES) - 1
    rows = np.stack([*[q] * plain, q * hq / hkv])
    copies = np.stack([*[batch * hq] * plain, batch * hkv])  # tiles of each length
    lengths = np.ceil(rows / _TILES)
    full = lengths * copies
    limit = np.maximum(1.0, np.ceil(seen / np.maximum(rows, 1.0) * lengths))  # a window caps the length of a tile
    turns = np.minimum(lengths - np.floor(_TURNS * gpu.sms / copies), limit)
    makespan = np.maximum(turns, 0.0).sum(axis=0)  # whole numbers: exact in any order
    total = np.where(limit < lengths, copies * (lengths * limit), copies * lengths * (lengths + 1) / 2)
    waves = full / gpu.sms
    balanced = total / gpu.sms
    features = {
        "tiles": np.log2(full),
        "wave_loss": np.where(waves < 1, waves, np.ceil(waves) / waves),
        "imbalance": np.where(waves < 12, makespan / balanced, 1.0),
        "longest": np.minimum(lengths, limit) / balanced,
        "fill": rows / _TILES / lengths,
    }
    return {f"{name}_{kind}": values[i] for i, kind in enumerate(_SCHEDULES) for name, values in features.items()}


def _attention_slots(key: Key, known: ConfigIndex) -> list[Slot | None]:
    """Same work spread otherwise (twice the heads, half the batch), then other heads, then other windows.

    Never another data type: tables are measured and withheld for all types at once, so that a neighbour of another type
    is there for every training row and missing when it is needed.
    """
    q_dtype, kv_dtype, hq, hkv, hd, window = key
    same = (1.0, 1.0)

    def slot(candidate: Key | None, factors: tuple[float, float] = same) -> Slot | None:
        return (candidate, factors) if candidate is not None and candidate in known else None

    return [
        slot((q_dtype, kv_dtype, hq * 2, hkv * 2, hd, window), (0.5, 1.0)),
        slot((q_dtype, kv_dtype, hq / 2, hkv / 2, hd, window), (2.0, 1.0)),
        slot(known.next_to(key, 2, False)),
        slot(known.next_to(key, 2, True)),
        slot(known.next_to(key, 3, False)),
        slot(known.next_to(key, 3, True)),
        slot((q_dtype, kv_dtype, hq * 4, hkv * 4, hd, window), (0.25, 1.0)),
        slot((q_dtype, kv_dtype, hq / 4, hkv / 4, hd, window), (4.0, 1.0)),
        slot(known.next_to(key, 4, False)),
        slot(known.next_to(key, 4, True)),
        slot(known.next_to(key, 5, False)),
        slot(known.next_to(key, 5, True)),
    ]


# Half and a quarter of the keys, for the same and for more sequences: equal bytes on equally busy SMs.
_FAR = ((1, 0.5), (1, 0.25), (2, 0.5), (2, 0.25), (4, 0.25), (4, 0.125), (8, 0.125))

_ATTENTION_CONFIG = ("q_dtype", "kv_dtype", "num_heads", "num_kv_heads", "head_dim", "window_size")


FAMILY_VARIANTS: tuple[Family, ...] = (
    Family(
        "attn_prefill",
        "attn_prefill",
        _ATTENTION_CONFIG,
        ("batch_size", "q_len"),
        lambda g, c: _attention_us(g, c, False),
        lambda g, c: _attention_physics(g, c, False),
        _attention_slots,
        10,
        text=frozenset({"q_dtype", "kv_dtype"}),
        extra=("kv_len",),
        region=("num_heads", "num_kv_heads", "head_dim"),
        far=_FAR,
        extend={"q_len": (16384, 24576, 32768, 65536, 131072)},
    ),
    Family(
        "attn_decode",
        "attn_decode",
        _ATTENTION_CONFIG,
        ("batch_size", "kv_len"),
        lambda g, c: _attention_us(g, c, True),
        lambda g, c: _attention_physics(g, c, True),
        _attention_slots,
        10,
        text=frozenset({"q_dtype", "kv_dtype"}),
        region=("num_heads", "num_kv_heads", "head_dim"),
        far=_FAR,
        extend={"kv_len": (65536, 131072, 262144, 524288, 1048576)},
    ),
)
