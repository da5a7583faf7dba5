"""The analytical roofline of every operator family: max(compute in whole waves, bytes at HBM or L2 speed) + floor.

All functions take numbers or numpy arrays (elementwise) and return microseconds. They are the fallback where nothing
was measured, and the denominator of the ratio that the learned models predict, so unseen shapes degrade to physics.
The efficiencies are round numbers that well-tuned kernels reach; the learned ratio corrects them per GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from revati_predictors.gpus import Gpu
from revati_predictors.operators import (
    DTYPE_BYTES,
    Attention,
    Collective,
    Copy,
    Gemm,
    Mla,
    Moe,
    Operator,
    Quantise,
    Stream,
)

__all__ = [
    "attention_us",
    "attention_work",
    "collective_us",
    "copy_us",
    "estimate_us",
    "gemm_terms",
    "gemm_us",
    "graph_us",
    "mla_us",
    "moe_active",
    "moe_us",
    "peak_flops",
    "quantise_us",
    "stream_us",
]

_COMPUTE_EFFICIENCY = 0.75
_MEMORY_EFFICIENCY = 0.85
_L2_GAIN = 2.2  # L2 bandwidth over HBM bandwidth
_TILES = ((64, 64), (64, 128), (128, 128), (128, 256))
_TILE_COLUMNS = (
    np.array([t[0] for t in _TILES], float),
    np.array([t[1] for t in _TILES], float),
    np.array([min(1.0, 0.55 + 0.45 * t[0] * t[1] / (128 * 128)) for t in _TILES]),
)
_GRAPH_LAUNCH_US = 6.0
# Above the floor of an empty kernel, as kernel-only measurements on Hopper show (NetX-lab/Frontier, H800).
_STREAM_EXTRA_US = {"norm": 0.6, "rope": 0.9, "activation": 0.6, "embedding": 0.3, "elementwise": 0.3, "sampling": 1.0}
_COPY_LATENCY_US = {"h2d": 1.8, "d2h": 1.8, "d2d": 1.5, "p2p": 4.0, "memset": 1.5, "h2h": 1.0}

Number = Any  # float or numpy array: the formulas do not care


def peak_flops(gpu: Gpu, dtype: str) -> float:
    """Dense flops per second for the multiplication of this data type."""
    if dtype in ("fp8", "fp8_block", "int8"):
        return gpu.flops_fp8
    if dtype == "nvfp4":
        return gpu.flops_fp4
    if dtype in ("float32", "float64"):
        return gpu.flops_f32
    if dtype == "tf32":
        return gpu.flops_bf16 / 2
    return gpu.flops_bf16  # bfloat16, float16, and 4-bit weights with 16-bit activations


def _bandwidth(gpu: Gpu, touched_bytes: Number) -> Number:
    """Bytes per second: data that fits into half of the L2 is read faster than HBM allows."""
    resident = np.minimum(np.maximum(1.5 - touched_bytes / (0.5 * gpu.l2_bytes), 0.0), 1.0)
    return gpu.hbm_bytes_s * _MEMORY_EFFICIENCY * (1.0 + (_L2_GAIN - 1.0) * resident)


def gemm_terms(gpu: Gpu, dtype: str, m: Number, n: Number, k: Number, batch: Number = 1) -> tuple[Number, Number]:
    """(compute_us in whole waves of the best tile, memory_us) of a matrix product."""
    peak = peak_flops(gpu, dtype) * _COMPUTE_EFFICIENCY / gpu.sms
    shape = (len(_TILES),) + (1,) * max(np.ndim(m), np.ndim(n), np.ndim(k))
    tile_m, tile_n, efficiency = (column.reshape(shape) for column in _TILE_COLUMNS)
    tiles = np.ceil(m / tile_m) * np.ceil(n / tile_n) * batch
    # Few tiles over a long k: kernels split k over idle SMs, with at least 512 of k each.
    split = np.minimum(np.maximum(np.floor(gpu.sms / tiles), 1.0), np.maximum(1.0, np.floor(np.asarray(k) / 512)))
    us = np.ceil(tiles * split / gpu.sms) * (2e6 * tile_m * tile_n * k / split) / (peak * efficiency)
    best = us.min(axis=0)
    weight = DTYPE_BYTES[dtype]
    touched = batch * (weight * n * k + min(2.0, max(1.0, weight)) * m * k + 2.0 * m * n)
    return best, 1e6 * touched / _bandwidth(gpu, touched)


def gemm_us(
    gpu: Gpu, dtype: str, m: Number, n: Number, k: Number, batch: Number = 1, quantised_input: bool = False
) -> Number:
    """Duration of y[m,n] = x[m,k] W[n,k]^T; with `quantised_input` the quantisation kernel before it too."""
    compute, memory = gemm_terms(gpu, dtype, m, n, k, batch)
    us = np.maximum(compute, memory) + 0.25 * np.minimum(compute, memory) + gpu.floor_us
    return us + quantise_us(gpu, m, k) if quantised_input else us


def attention_work(q: Number, kv: Number, window: Number) -> Number:
    """Query-key pairs of one head of a causal sequence with q queries at the end of kv keys."""
    full = q * kv - 0.5 * q * (q - 1.0)
    span = np.where(np.asarray(window) > 0, window, kv)
    start = np.maximum(kv - q + 1.0, 1.0)  # keys that the first query sees
    # Queries whose history is longer than the window see `span` keys, the earlier ones a growing triangle.
    grow = np.minimum(np.maximum(span - start, 0.0), q)
    limited = grow * start + 0.5 * grow * (grow - 1.0) + (q - grow) * span
    return np.where(span < kv, limited, full)


def attention_us(
    gpu: Gpu,
    batch: Number,
    q: Number,
    kv: Number,
    heads_q: Number,
    heads_kv: Number,
    head_dim: Number,
    kv_bytes: Number,
    window: Number = 0,
    q_dtype: str = "bfloat16",
) -> Number:
    """`batch` equal sequences; KV write included."""
    work = attention_work(q, kv, window)
    flops = 4.0 * batch * heads_q * head_dim * work
    tiles = batch * heads_q * np.ceil(q / 128.0)
    busy = np.where(q > 1, np.minimum(1.0, tiles / gpu.sms), 1.0)  # decode splits the keys, prefill does not
    compute = 1e6 * flops / (peak_flops(gpu, q_dtype) * 0.6) / np.maximum(busy, 1.0 / gpu.sms)
    compute = np.where(q > 1, compute, compute * np.maximum(1.0, 8.0 * heads_kv / heads_q))
    seen = np.where(np.asarray(window) > 0, np.minimum(kv, q + window), kv)
    touched = batch * (
        2.0 * seen * heads_kv * head_dim * kv_bytes
        + 4.0 * q * heads_q * head_dim
        + q * heads_kv * head_dim * (4.0 + 2.0 * kv_bytes)
    )
    memory = 1e6 * touched / _bandwidth(gpu, touched)
    return np.maximum(compute, memory) + 0.2 * np.minimum(compute, memory) + 3.0 * gpu.floor_us


def mla_us(gpu: Gpu, batch: Number, q: Number, kv: Number, heads: Number, kv_bytes: Number) -> Number:
    """Latent attention: decode reads a 576-wide latent per key, prefill multiplies 192/128-wide heads."""
    work = attention_work(q, kv, 0)
    width = np.where(q > 1, 2.0 * (192 + 128), 2.0 * (576 + 512))
    tiles = batch * np.where(q > 1, heads * np.ceil(q / 128.0), np.ceil(heads / 64.0) * np.ceil(kv / 1024.0))
    busy = np.minimum(1.0, tiles / gpu.sms)
    padded_heads = np.where(q > 1, heads, np.maximum(heads, 16.0))
    compute = 1e6 * batch * padded_heads * width * work / (gpu.flops_bf16 * 0.6) / np.maximum(busy, 1.0 / gpu.sms)
    touched = batch * np.where(q > 1, kv * heads * 320.0 * 2.0, kv * 576.0 * kv_bytes) + batch * q * heads * 1088.0 * 2
    memory = 1e6 * touched / _bandwidth(gpu, touched)
    return np.maximum(compute, memory) + 0.2 * np.minimum(compute, memory) + 3.0 * gpu.floor_us


def moe_active(tokens: Number, topk: Number, experts: Number, ep: Number) -> tuple[Number, Number]:
    """(experts of this rank that get at least one token, token-expert pairs of this rank), balanced routing."""
    local = np.maximum(1.0, experts / ep)
    pairs = tokens * topk / ep
    active = local * (1.0 - (1.0 - np.minimum(1.0, topk / experts)) ** tokens)
    return np.maximum(active, np.minimum(1.0, pairs)), np.maximum(pairs, 1.0)


def moe_us(
    gpu: Gpu,
    dtype: str,
    tokens: Number,
    hidden: Number,
    inter: Number,
    topk: Number,
    experts: Number,
    tp: Number = 1,
    ep: Number = 1,
    skew: Number = 1.0,
) -> Number:
    """The whole layer on the most loaded rank; `skew` multiplies its share of the tokens."""
    active, pairs = moe_active(tokens, topk, experts, ep)
    pairs = pairs * skew
    width = inter / tp
    weight = DTYPE_BYTES.get(dtype, 2.0)
    rows = active * np.ceil(pairs / active / 16.0) * 16.0
    flops = 6.0 * rows * hidden * width
    tiles = np.maximum(1.0, rows / 64.0) * np.ceil(hidden / 128.0)
    busy = np.minimum(1.0, tiles / gpu.sms)
    compute = 1e6 * flops / (peak_flops(gpu, dtype) * 0.5) / np.maximum(busy, 0.02)
    touched = 3.0 * active * hidden * width * weight + pairs * (6.0 * hidden + 6.0 * width) + 8.0 * tokens * hidden
    memory = 1e6 * touched / _bandwidth(gpu, touched)
    return np.maximum(compute, memory) + 0.25 * np.minimum(compute, memory) + 7.0 * gpu.floor_us


def quantise_us(gpu: Gpu, m: Number, k: Number) -> Number:
    """fp8 quantisation of x[m,k] from bf16."""
    touched = 3.0 * m * k
    return 1e6 * touched / _bandwidth(gpu, touched) + gpu.floor_us


def stream_us(gpu: Gpu, touched_bytes: Number) -> Number:
    """A kernel that reads and writes `touched_bytes` once."""
    return 1e6 * touched_bytes / _bandwidth(gpu, touched_bytes) + gpu.floor_us


def copy_us(gpu: Gpu, nbytes: Number, direction: str) -> Number:
    """A copy or memset; p2p and h2d/d2h move over their link, d2d reads and writes HBM."""
    per_second = {
        "h2d": 0.9 * gpu.pcie_bytes_s,
        "d2h": 0.9 * gpu.pcie_bytes_s,
        "p2p": 0.8 * gpu.link_bytes_s,
        "d2d": 0.42 * gpu.hbm_bytes_s,
        "memset": 0.85 * gpu.hbm_bytes_s,
        "h2h": 10e9,
    }[direction]
    return 1e6 * nbytes / per_second + _COPY_LATENCY_US[direction]


def collective_us(gpu: Gpu, op: str, nbytes: Number, ranks: Number, nodes: Number = 1, impl: str = "nccl") -> Number:
    """A collective of `nbytes` per rank: latency by algorithm, then the ring's traffic at link speed."""
    factor = {
        "all_reduce": 2.0,
        "reduce_scatter": 1.0,
        "all_gather": 1.0,
        "alltoall": 1.0,
        "broadcast": 1.0,
        "reduce": 1.0,
    }.get(op, 1.0)
    share = 1.0 if op in ("send_recv", "send", "recv", "broadcast", "reduce") else (ranks - 1.0) / ranks
    link = np.where(np.asarray(nodes) > 1, np.minimum(gpu.link_bytes_s, 25e9), gpu.link_bytes_s)
    latency = np.where(np.asarray(nodes) > 1, 30.0, 0.0)
    if impl == "nccl":
        return latency + 6.0 + 1.2 * ranks + 1e6 * nbytes * factor * share / (0.75 * link)
    if impl == "one_shot":
        return latency + 3.5 + 0.4 * ranks + 1e6 * nbytes * (ranks - 1.0) / (0.6 * link)
    return latency + 4.0 + 0.6 * ranks + 1e6 * nbytes * factor * share / (0.7 * link)


def graph_us(gpu: Gpu, nodes: Number) -> Number:
    """Graph launch overhead on the device; the gaps between nodes are part of every kernel's floor."""
    del gpu
    return _GRAPH_LAUNCH_US + 0.0 * nodes


def _attention_seqs_us(gpu: Gpu, op: Attention) -> float:
    """Individual sequences: every part's work summed, but no shorter than the longest sequence alone."""
    kv_bytes = DTYPE_BYTES[op.kv_dtype]
    args = (op.heads_q, op.heads_kv, op.head_dim, kv_bytes, op.window, op.q_dtype)
    decode = np.array([s for s in op.seqs if s[0] == 1], float).reshape(-1, 2)
    prefill = np.array([s for s in op.seqs if s[0] != 1], float).reshape(-1, 2)
    floor = 3.0 * gpu.floor_us
    total = floor
    for part in (decode, prefill):
        if len(part):
            # n copies of sequence i, divided by n: the share of sequence i in a batch of n.
            each = attention_us(gpu, float(len(part)), part[:, 0], part[:, 1], *args) - floor
            alone = attention_us(gpu, 1.0, part[:, 0].max(), part[:, 1].max(), *args) - floor
            total += max(float(each.sum()) / len(part), float(alone))
    return total


def _mla_seqs_us(gpu: Gpu, op: Mla) -> float:
    seqs = np.array(op.seqs, float)
    each = mla_us(gpu, float(len(seqs)), seqs[:, 0], seqs[:, 1], op.heads, DTYPE_BYTES[op.kv_dtype])
    return float(each.mean())


def estimate_us(gpu: Gpu, op: Operator) -> float:
    """The roofline duration of one operator in microseconds."""
    if isinstance(op, Gemm):
        return float(gemm_us(gpu, op.dtype, op.m, op.n, op.k, op.batch, op.quantised_input))
    if isinstance(op, Attention):
        return _attention_seqs_us(gpu, op) if op.seqs else 3.0 * gpu.floor_us
    if isinstance(op, Mla):
        return _mla_seqs_us(gpu, op) if op.seqs else 3.0 * gpu.floor_us
    if isinstance(op, Moe):
        return float(moe_us(gpu, op.dtype, op.tokens, op.hidden, op.inter, op.topk, op.experts, op.tp, op.ep))
    if isinstance(op, Quantise):
        return float(quantise_us(gpu, op.m, op.k))
    if isinstance(op, Stream):
        return float(stream_us(gpu, op.bytes)) + _STREAM_EXTRA_US.get(op.op, 0.0)
    if isinstance(op, Copy):
        return float(copy_us(gpu, op.bytes, op.direction))
    if isinstance(op, Collective):
        return float(collective_us(gpu, op.op, op.bytes, op.ranks, op.nodes, op.impl))
    return float(graph_us(gpu, op.nodes))


def estimate_many_us(gpu: Gpu, ops: Iterable[Operator]) -> list[float]:
    """`estimate_us` of each operator."""
    return [estimate_us(gpu, op) for op in ops]
