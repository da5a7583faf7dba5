"""The measured families: which columns make a configuration, which are axes, the roofline of a row, its features.

A `Family` is everything that is special about one kind of table; grid.py, train.py and learned.py work on any of them.
Columns are arrays by name; sizes are elements or tokens, times microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors import roofline
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ConfigIndex

__all__ = ["FAMILIES", "VARIANTS", "Columns", "Family", "variant_of"]

Columns = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]
Key = tuple[Any, ...]
# A slot: a configuration that resembles another, and the factor by which each axis value must be multiplied there.
Slot = tuple[Key, tuple[float, ...]]


@dataclass(frozen=True)
class Family:
    """One kind of measured table.

    config / axes: column names; a family without axes has no grid and is predicted from its features alone.
    extra: columns that the roofline or the features need besides. soft: text columns of the configuration for which
        the nearest known value will do (versions, kernels). text: columns that are not numbers.
    shape_ignores: columns that are measured together, so that a validation split must not separate them.
    far: axis factors of the smaller nodes from which a model continues the last axis; extend: nodes added there.
    edges_by_slots: nodes at the ends of a line, which nothing brackets, are better told from similar configurations.
    region: columns whose combinations are withheld as whole regions when the trainer validates.
    roofline_us, physics: from columns of rows. slots: neighbours of a configuration in order of usefulness, in groups;
        groups up to `strict_groups` stay available for a configuration of a withheld region (unseen heads).
    mask_axis: an axis whose line is hidden in half of the training rows (an unseen (n, k) has no other m).
    """

    name: str
    family: str
    config: tuple[str, ...]
    axes: tuple[str, ...]
    roofline_us: Callable[[Gpu, Columns], Floats]
    physics: Callable[[Gpu, Columns], dict[str, Floats]]
    slots: Callable[[Key, ConfigIndex], list[Slot | None]] = lambda key, known: []
    strict_slots: int = 0
    mask_axis: int = -1
    time_columns: tuple[str, ...] = ("lat_us",)
    text: frozenset[str] = frozenset()
    soft: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    checked_dtypes: bool = True
    shape_ignores: tuple[str, ...] = ("dtype", "q_dtype", "kv_dtype", "distribution")
    region: tuple[str, ...] = ()
    edges_by_slots: bool = False
    far: tuple[tuple[float, ...], ...] = ()
    extend: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that a table must have."""
        derived = _DERIVED if self.name == "attn_mixed" else ()
        return tuple(c for c in dict.fromkeys((*self.config, *self.axes, *self.extra)) if c not in derived)

    @property
    def shape_columns(self) -> tuple[str, ...]:
        """The columns of a shape: what is measured at once, and must not be parted by a validation split."""
        return tuple(c for c in (*self.config, *self.axes, *self.extra) if c not in self.shape_ignores)


_DERIVED = ("heads_q", "heads_kv", "head_dim")


def _f(columns: Columns, name: str) -> Floats:
    return np.asarray(columns[name], float)


def _by_value(columns: Columns, name: str, table: Callable[[str], float]) -> Floats:
    values = columns[name]
    distinct = {v: table(str(v)) for v in dict.fromkeys(values.tolist())}
    return np.array([distinct[v] for v in values.tolist()], float)


_CODES = {
    "bfloat16": 0,
    "float16": 0,
    "half": 0,
    "fp8": 1,
    "fp8_block": 2,
    "int8": 1,
    "nvfp4": 3,
    "int4_wo": 4,
    "w4a16_mxfp4": 5,
    "w4a8_mxfp4_mxfp8": 6,
}


def _code(columns: Columns, name: str) -> Floats:
    return _by_value(columns, name, lambda v: float(_CODES.get(v.lower(), 9)))


# --- GEMM ----------------------------------------------------------------------------------------------------------


def _per_dtype(columns: Columns, of: Callable[[str, NDArray[np.bool_]], Floats], rows: int) -> Floats:
    out = np.empty(rows)
    dtypes = columns["dtype"]
    for dtype in dict.fromkeys(dtypes.tolist()):
        chosen = dtypes == dtype
        out[chosen] = of(str(dtype), chosen)
    return out


def _gemm_us(gpu: Gpu, columns: Columns) -> Floats:
    m, n, k = (_f(columns, c) for c in "mnk")
    return _per_dtype(
        columns, lambda d, s: np.asarray(roofline.gemm_us(gpu, d, m[s], n[s], k[s], 1, d.startswith("fp8"))), len(m)
    )


_WAVE_TILES = ((64, 64), (64, 128), (64, 256), (128, 128), (128, 256), (256, 128), (192, 192))
_WAVE_M, _WAVE_N = (np.array([t[i] for t in _WAVE_TILES], float)[:, None] for i in (0, 1))
_FILL_TILES = np.array([64, 128, 192, 256], float)[:, None]


def _waves(gpu: Gpu, m: Floats, n: Floats) -> dict[str, Floats]:
    waves = np.ceil(m / _WAVE_M) * np.ceil(n / _WAVE_N) / gpu.sms
    loss = np.where(waves < 1, waves, np.ceil(waves) / waves)
    size = np.log2(waves)
    out: dict[str, Floats] = {}
    for i, (tile_m, tile_n) in enumerate(_WAVE_TILES):
        out[f"wave_loss_{tile_m}x{tile_n}"] = loss[i]
        if tile_n == 128:
            out[f"waves_{tile_m}"] = size[i]
    fill = m / _FILL_TILES / np.ceil(m / _FILL_TILES)
    for i, tile in enumerate(_FILL_TILES[:, 0]):
        out[f"tile_fill_{tile:g}"] = fill[i]
    return out


def _gemm_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    m, n, k = (_f(columns, c) for c in "mnk")
    terms = np.empty((2, len(m)))
    dtypes = columns["dtype"]
    for dtype in dict.fromkeys(dtypes.tolist()):
        s = dtypes == dtype
        terms[0, s], terms[1, s] = roofline.gemm_terms(gpu, str(dtype), m[s], n[s], k[s])
    return {
        "dtype": _code(columns, "dtype"),
        "log_m": np.log2(m),
        "log_n": np.log2(n),
        "log_k": np.log2(k),
        "odd_m": m % 2,
        "log_compute": np.log(terms[0]),
        "log_intensity": np.log(terms[0] / terms[1]),
        "log_weights": np.log2(n * k),
        **_waves(gpu, m, n),
    }


# --- attention -----------------------------------------------------------------------------------------------------


def _kv_bytes(columns: Columns) -> Floats:
    return _by_value(columns, "kv_dtype", lambda v: 1.0 if v.startswith("fp8") else 2.0)


def _attention_us(gpu: Gpu, columns: Columns, decode: bool) -> Floats:
    kv = _f(columns, "kv_len")
    q = np.ones(len(kv)) if decode else _f(columns, "q_len")
    hq, hkv, hd = (_f(columns, c) for c in ("num_heads", "num_kv_heads", "head_dim"))
    window = _f(columns, "window_size")
    batch = _f(columns, "batch_size")
    us = np.asarray(roofline.attention_us(gpu, batch, q, kv, hq, hkv, hd, _kv_bytes(columns), window))
    fp8 = np.asarray(columns["q_dtype"]) == "fp8"
    if fp8.any():
        low = np.asarray(roofline.attention_us(gpu, batch, q, kv, hq, hkv, hd, _kv_bytes(columns), window, "fp8"))
        us = np.where(fp8, low, us)
    return us


def _attention_physics(gpu: Gpu, columns: Columns, decode: bool) -> dict[str, Floats]:
    kv, batch = _f(columns, "kv_len"), _f(columns, "batch_size")
    q = np.ones(len(kv)) if decode else _f(columns, "q_len")
    hq, hkv, hd = (_f(columns, c) for c in ("num_heads", "num_kv_heads", "head_dim"))
    window = _f(columns, "window_size")
    seen = np.where(window > 0, np.minimum(window, kv), kv)
    work = np.asarray(roofline.attention_work(q, kv, window))
    blocks = batch * hkv if decode else batch * hq * np.ceil(q / 128.0)
    waves = blocks / gpu.sms
    out = {
        "q_dtype": _code(columns, "q_dtype"),
        "kv_dtype": _code(columns, "kv_dtype"),
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
        for tile in (64, 128, 192):
            out.update(_schedule(gpu, f"{tile}", tile, q, seen, batch * hq))
        out.update(_schedule(gpu, "packed", 128, q * hq / hkv, seen, batch * hkv))
    return out


def _schedule(gpu: Gpu, name: str, tile: int, rows: Floats, seen: Floats, copies: Floats) -> dict[str, Floats]:
    """How causal query tiles of growing length fill the SMs, the longest first: `copies` tiles of each length."""
    lengths = np.ceil(rows / tile)
    full = lengths * copies
    limit = np.maximum(1.0, np.ceil(seen / np.maximum(rows, 1.0) * lengths))  # a window caps the length of a tile
    makespan = np.zeros(len(rows))
    for turn in range(12):
        makespan += np.maximum(np.minimum(lengths - np.floor(turn * gpu.sms / copies), limit), 0.0)
    total = np.where(limit < lengths, copies * (lengths * limit), copies * lengths * (lengths + 1) / 2)
    waves = full / gpu.sms
    balanced = total / gpu.sms
    return {
        f"tiles_{name}": np.log2(full),
        f"wave_loss_{name}": np.where(waves < 1, waves, np.ceil(waves) / waves),
        f"imbalance_{name}": np.where(waves < 12, makespan / balanced, 1.0),
        f"longest_{name}": np.minimum(lengths, limit) / balanced,
        f"fill_{name}": rows / tile / lengths,
    }


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


# --- mixture of experts --------------------------------------------------------------------------------------------

_MOE_WEIGHT = {"int4_wo": "w4a16", "w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "mxfp4"}


def _skew(columns: Columns) -> Floats:
    return _by_value(columns, "distribution", lambda v: float(v.rsplit("_", 1)[1]) if v.startswith("power") else 0.0)


def _moe_columns(columns: Columns) -> tuple[Floats, ...]:
    return tuple(
        _f(columns, c)
        for c in ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
    )


def _moe_us(gpu: Gpu, columns: Columns) -> Floats:
    args = _moe_columns(columns)
    return _per_dtype(
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
        "dtype": _code(columns, "dtype"),
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


# --- collectives, quantisation, MLA, layers, mixed attention ---------------------------------------------------------


def _comm_us(gpu: Gpu, columns: Columns) -> Floats:
    nbytes, ranks = _f(columns, "bytes"), _f(columns, "num_gpus")
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


def _plain_physics(*names: str) -> Callable[[Gpu, Columns], dict[str, Floats]]:
    def physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
        del gpu
        return {f"log_{name}": np.log2(_f(columns, name) + 1.0) for name in names}

    return physics


def _deepep_us(gpu: Gpu, columns: Columns) -> Floats:
    tokens, hidden, topk, ranks = (_f(columns, c) for c in ("num_tokens", "hidden_size", "topk", "num_gpus"))
    nbytes = tokens * hidden * 2.0 * np.minimum(topk, ranks)
    return np.asarray(20.0 + 1e6 * nbytes / (0.6 * gpu.link_bytes_s))


def _vidur_comm_us(gpu: Gpu, columns: Columns) -> Floats:
    nbytes, ranks = _f(columns, "bytes"), _f(columns, "num_gpus")
    nodes = np.where(_f(columns, "devices_per_node") < ranks, 2.0, 1.0)
    reduce = np.asarray(columns["op"]) == "all_reduce"
    return np.where(
        reduce,
        np.asarray(roofline.collective_us(gpu, "all_reduce", nbytes, ranks, nodes)),
        np.asarray(roofline.collective_us(gpu, "send_recv", nbytes, ranks, nodes)),
    )


def _quantise_us(gpu: Gpu, columns: Columns) -> Floats:
    return np.asarray(roofline.quantise_us(gpu, _f(columns, "m"), _f(columns, "k")))


def _mla_us(gpu: Gpu, columns: Columns) -> Floats:
    q, kv = _f(columns, "q_len"), _f(columns, "kv_len")
    return np.asarray(
        roofline.mla_us(gpu, _f(columns, "batch_size"), q, kv, _f(columns, "num_heads"), _kv_bytes(columns))
    )


def _mla_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    batch, q, kv, heads = (_f(columns, c) for c in ("batch_size", "q_len", "kv_len", "num_heads"))
    waves = batch * np.ceil(heads / 64) * np.ceil(q / 64) / gpu.sms
    return {
        "log_batch": np.log2(batch),
        "log_q": np.log2(q),
        "log_kv": np.log2(kv),
        "log_heads": np.log2(heads),
        "kv_dtype": _code(columns, "kv_dtype"),
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
    tokens, heads = _f(columns, "num_tokens"), _f(columns, "num_heads")
    return np.asarray(roofline.gemm_us(gpu, "bfloat16", tokens, 512.0, 128.0, heads))


def _head_slots(key: Key, known: ConfigIndex) -> list[Slot | None]:
    at = len(key) - 1
    found = (known.next_to(key, at, up) for up in (False, True))
    return [(f, (1.0,)) if f else None for f in found]


_LAYER_SIZES = ("n_head", "n_kv_head", "hidden", "inter", "vocab", "tp", "gated")


def _layer_shape(columns: Columns) -> tuple[NDArray[np.bool_], Floats, Floats, Floats]:
    """(is a product, n, k, bytes per token of a streaming operator) of rows of layer_ops with model sizes."""
    op = np.asarray(columns["op"])
    heads, kv, hidden, inter, vocab, tp, gated = (_f(columns, c) for c in _LAYER_SIZES)
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
    m = _f(columns, "num_tokens")
    us = np.asarray(roofline.stream_us(gpu, per_token * m))
    if product.any():
        us[product] = roofline.gemm_us(gpu, "bfloat16", m[product], n[product], k[product])
    return us


def _layer_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    product, n, k, per_token = _layer_shape(columns)
    m = _f(columns, "num_tokens")
    return {
        "log_m": np.log2(m),
        "log_n": np.log2(n + 1),
        "log_k": np.log2(k),
        "log_bytes": np.log2(per_token * m),
        "product": product.astype(float),
        "op": _by_value(columns, "op", lambda v: float(sum(map(ord, v)) % 997)),
        **_waves(gpu, m, np.maximum(n, 1)),
    }


def _layer_slots(key: Key, known: ConfigIndex) -> list[Slot | None]:
    """Another split of the same model, then other models: nothing but `tp` is comparable without its physics."""
    at = 2
    found = (known.next_to(key, at, up) for up in (False, True))
    return [(f, (1.0,)) if f else None for f in found]


def _plain_layer_us(gpu: Gpu, columns: Columns) -> Floats:
    """Rows without model sizes: a floor and something that grows with tokens."""
    return gpu.floor_us + 0.05 * _f(columns, "num_tokens")


def _moe_layer_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    tokens, topk, local, ep, tp, hidden, inter = (
        _f(columns, c) for c in ("num_tokens", "topk", "experts_per_device", "ep", "tp", "hidden", "inter")
    )
    pairs = tokens * topk / ep
    return {
        **_plain_physics("num_tokens")(gpu, columns),
        "op": _by_value(columns, "op", lambda v: float(sum(map(ord, v)) % 997)),
        "log_experts": np.log2(_f(columns, "num_experts")),
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


def _mixed_us(gpu: Gpu, columns: Columns) -> Floats:
    heads, kv_heads, hd = (_f(columns, c) for c in ("heads_q", "heads_kv", "head_dim"))
    chunk, cached, n, kv = (_f(columns, c) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
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
    heads, kv_heads = _f(columns, "heads_q"), _f(columns, "heads_kv")
    chunk, cached, n, kv = (_f(columns, c) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
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
    sizes = _f(columns, "kv_cache_size").tolist()
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
    heads, kv_heads, _width = (_f(columns, c) for c in ("n_q_head", "n_kv_head", "n_embd"))
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
        "heads": _f(columns, "n_q_head"),
        "kv_heads": _f(columns, "n_kv_head"),
        "width": _f(columns, "n_embd"),
        "tp": _f(columns, "tp"),
        "prefills": np.array([len(new) for new, _, _ in batches], float),
        "decodes": np.array([len(keys) for _, _, keys in batches], float),
        "longest": np.array([float(max([0.0, *new, *keys])) for new, _, keys in batches]),
        "longest_cached": np.array([float(max([0.0, *old])) for _, old, _ in batches]),
        "mixed": (np.asarray(columns["mode"]) == "true_mixed").astype(float),
    }


# Half and a quarter of the keys, for the same and for more sequences: equal bytes on equally busy SMs.
_FAR = ((1, 0.5), (1, 0.25), (2, 0.5), (2, 0.25), (4, 0.25), (4, 0.125), (8, 0.125))
_ATTENTION_CONFIG = ("q_dtype", "kv_dtype", "num_heads", "num_kv_heads", "head_dim", "window_size")
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

VARIANTS: dict[str, Family] = {
    f.name: f
    for f in (
        Family(
            "gemm",
            "gemm",
            ("dtype",),
            ("m", "n", "k"),
            _gemm_us,
            _gemm_physics,
            mask_axis=0,
            text=frozenset({"dtype"}),
            region=("n", "k"),
        ),
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
        Family(
            "comm",
            "comm",
            ("impl", "version", "mode", "op", "dtype", "num_gpus"),
            ("bytes",),
            _comm_us,
            _plain_physics("bytes", "num_gpus"),
            _head_slots,
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
            _plain_physics("num_tokens", "hidden_size", "topk", "num_experts", "sms"),
            _head_slots,
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
            _plain_physics("bytes", "num_gpus", "devices_per_node"),
            text=frozenset({"topology", "op"}),
            soft=("topology",),
        ),
        Family(
            "quantize",
            "quantize",
            ("framework", "version", "op", "kernel", "dtype"),
            ("m", "k"),
            _quantise_us,
            _plain_physics("m", "k"),
            text=frozenset({"framework", "version", "op", "kernel", "dtype"}),
            soft=("kernel", "version", "framework"),
            shape_ignores=("framework", "version", "op", "kernel", "dtype"),
        ),
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
            _plain_physics("num_tokens", "num_heads"),
            _head_slots,
            2,
            text=frozenset({"framework", "version", "op", "kernel", "dtype"}),
            soft=("kernel", "version", "framework"),
            shape_ignores=("framework", "version", "kernel", "dtype"),
        ),
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
            _plain_physics("num_tokens"),
            _layer_slots,
            2,
            text=frozenset({"model", "op"}),
        ),
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
}

FAMILIES = tuple(dict.fromkeys(f.family for f in VARIANTS.values()))


def variant_of(family: str, header: Sequence[str]) -> Family | None:
    """The variant of a family whose columns the table has (a family can have tables of several kinds)."""
    names = set(header)
    for candidate in sorted((f for f in VARIANTS.values() if f.family == family), key=lambda f: -len(f.needed)):
        if set(candidate.needed) <= names:
            return candidate
    return None
