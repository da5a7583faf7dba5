"""Collectives inside a node, all-to-all of experts, and links between nodes."""

from __future__ import annotations

import numpy as np

from revati_predictors import roofline
from revati_predictors.families.base import Columns, Family, Floats, head_slots, number, plain_physics
from revati_predictors.gpus import Gpu

__all__ = ["FAMILY_VARIANTS"]


def _comm_us(gpu: Gpu, columns: Columns) -> Floats:
    nbytes, ranks = number(columns, "bytes"), number(columns, "num_gpus")
    out = np.empty(len(nbytes))
    impl, ops = np.asarray(columns["impl"]), np.asarray(columns["op"])
    for i in dict.fromkeys(impl.tolist()):
        for op in dict.fromkeys(ops.tolist()):
            s = (impl == i) & (ops == op)
            if s.any():
                out[s] = roofline.collective_us(
                    gpu, str(op), nbytes[s], ranks[s], 1, "nccl" if i == "nccl" else "custom"
                )
    return out


def _deepep_us(gpu: Gpu, columns: Columns) -> Floats:
    tokens, hidden, topk, ranks = (number(columns, c) for c in ("num_tokens", "hidden_size", "topk", "num_gpus"))
    nbytes = tokens * hidden * 2.0 * np.minimum(topk, ranks)
    return np.asarray(20.0 + 1e6 * nbytes / (0.6 * gpu.link_bytes_s))


def _vidur_comm_us(gpu: Gpu, columns: Columns) -> Floats:
    nbytes, ranks = number(columns, "bytes"), number(columns, "num_gpus")
    nodes = np.where(number(columns, "devices_per_node") < ranks, 2.0, 1.0)
    reduce = np.asarray(columns["op"]) == "all_reduce"
    return np.where(
        reduce,
        np.asarray(roofline.collective_us(gpu, "all_reduce", nbytes, ranks, nodes)),
        np.asarray(roofline.collective_us(gpu, "send_recv", nbytes, ranks, nodes)),
    )


FAMILY_VARIANTS: tuple[Family, ...] = (
    Family(
        "comm",
        "comm",
        ("impl", "version", "mode", "op", "dtype", "num_gpus"),
        ("bytes",),
        _comm_us,
        plain_physics("bytes", "num_gpus"),
        head_slots,
        2,
        text=frozenset({"impl", "version", "mode", "op", "dtype"}),
        checked_dtypes=False,
        soft=("dtype", "version", "mode", "impl"),
        shape_ignores=("dtype", "version", "mode", "impl"),
    ),
    Family(
        "comm_deepep",
        "comm",
        ("impl", "version", "mode", "op", "num_gpus", "hidden_size", "topk", "num_experts", "sms"),
        ("num_tokens",),
        _deepep_us,
        plain_physics("num_tokens", "hidden_size", "topk", "num_experts", "sms"),
        head_slots,
        2,
        text=frozenset({"impl", "version", "mode", "op"}),
        soft=("version", "impl"),
        shape_ignores=("version",),
    ),
    Family(
        "comm_links",
        "comm",
        ("topology", "op", "num_gpus", "devices_per_node"),
        ("bytes",),
        _vidur_comm_us,
        plain_physics("bytes", "num_gpus", "devices_per_node"),
        text=frozenset({"topology", "op"}),
        soft=("topology",),
    ),
)
