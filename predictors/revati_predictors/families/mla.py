"""DeepSeek's latent attention: the core and its batched product."""

from __future__ import annotations

import numpy as np

from revati_predictors import roofline
from revati_predictors.families.base import (
    Columns,
    Family,
    Floats,
    Key,
    Slot,
    code,
    head_slots,
    kv_bytes,
    number,
    plain_physics,
)
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ConfigIndex

__all__ = ["FAMILY_VARIANTS"]


def _mla_us(gpu: Gpu, columns: Columns) -> Floats:
    q, kv = number(columns, "q_len"), number(columns, "kv_len")
    return np.asarray(
        roofline.mla_us(gpu, number(columns, "batch_size"), q, kv, number(columns, "num_heads"), kv_bytes(columns))
    )


def _mla_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    batch, q, kv, heads = (number(columns, c) for c in ("batch_size", "q_len", "kv_len", "num_heads"))
    waves = batch * np.ceil(heads / 64) * np.ceil(q / 64) / gpu.sms
    return {
        "log_batch": np.log2(batch),
        "log_q": np.log2(q),
        "log_kv": np.log2(kv),
        "log_heads": np.log2(heads),
        "kv_dtype": code(columns, "kv_dtype"),
        "decode": (np.asarray(columns["phase"]) == "decode").astype(float),
        "wave_loss": np.where(waves < 1, waves, np.ceil(waves) / waves),
    }


def _mla_slots(key: Key, known: ConfigIndex) -> list[Slot | None]:
    """Same work: twice the heads and half the batch; then the nearest heads, then another tp."""
    at = len(key) - 1
    out: list[Slot | None] = []
    for factor, batch in ((2, 0.5), (0.5, 2.0)):
        candidate = (*key[:at], key[at] * factor)
        out.append((candidate, (batch, 1.0)) if candidate in known else None)
    for up in (False, True):
        found = known.next_to(key, at, up)
        out.append((found, (1.0, 1.0)) if found else None)
    return out


def _bmm_us(gpu: Gpu, columns: Columns) -> Floats:
    tokens, heads = number(columns, "num_tokens"), number(columns, "num_heads")
    return np.asarray(roofline.gemm_us(gpu, "bfloat16", tokens, 512.0, 128.0, heads))


FAMILY_VARIANTS: tuple[Family, ...] = (
    Family(
        "mla_attention",
        "mla",
        ("framework", "version", "phase", "kernel", "q_dtype", "kv_dtype", "num_heads"),
        ("batch_size", "kv_len"),
        _mla_us,
        _mla_physics,
        _mla_slots,
        4,
        text=frozenset({"framework", "version", "phase", "kernel", "q_dtype", "kv_dtype"}),
        extra=("q_len",),
        soft=("kernel", "version", "framework"),
        region=("num_heads",),
        shape_ignores=("framework", "version", "kernel", "q_dtype", "kv_dtype"),
    ),
    Family(
        "mla_bmm",
        "mla",
        ("framework", "version", "op", "kernel", "dtype", "num_heads"),
        ("num_tokens",),
        _bmm_us,
        plain_physics("num_tokens", "num_heads"),
        head_slots,
        2,
        text=frozenset({"framework", "version", "op", "kernel", "dtype"}),
        soft=("kernel", "version", "framework"),
        shape_ignores=("framework", "version", "kernel", "dtype"),
    ),
)
