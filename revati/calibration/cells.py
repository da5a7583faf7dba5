"""What an operator sweep measures: cells in the order of their use, so that a run cut anywhere holds the best part.

A cell is one operator at one shape. Its family and parameters are the columns of the training tables (see
`COLUMNS`), so a measured cell is a training row. Tier 0 is what a serving step of the reference models asks for,
tier 1 fills in between, tier 2 is a general grid for models nobody has named yet.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["COLUMNS", "MODELS", "Cell", "ModelShape", "cells_for_steps", "plan_cells", "seconds", "within"]

Value = int | str

# A family's columns between (gpu, framework, version, kernel) and lat_us, as in the published kernel tables.
COLUMNS: dict[str, tuple[str, ...]] = {
    "gemm": ("dtype", "m", "n", "k"),
    "attn_prefill": (
        "q_dtype",
        "kv_dtype",
        "batch_size",
        "q_len",
        "kv_len",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "window_size",
    ),
    "attn_decode": (
        "q_dtype",
        "kv_dtype",
        "batch_size",
        "q_len",
        "kv_len",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "window_size",
    ),
    "attn_mixed": ("model", "tp", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "spread"),
    "moe": (
        "dtype",
        "distribution",
        "num_tokens",
        "hidden_size",
        "inter_size",
        "topk",
        "num_experts",
        "moe_tp_size",
        "moe_ep_size",
    ),
    "quantize": ("op", "dtype", "m", "k"),
    "layer_ops": ("model", "op", "num_tokens", "tp", "n_head", "n_kv_head", "hidden", "inter", "vocab"),
    "copy": ("direction", "memory", "bytes"),
    "graph": ("nodes",),
}

_HELD_OUT_PERCENT = 15


class ModelShape(NamedTuple):
    """The sizes of a decoder that decide its operators' shapes; `experts` 0 means dense, `inter` is one expert's
    width.
    """

    name: str
    hidden: int
    inter: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    layers: int
    experts: int = 0
    topk: int = 0
    qk_norm: bool = False

    def gemms(self) -> list[tuple[str, int, int]]:
        """(name, n, k) of the weight products of one layer and of the output head."""
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        shapes = [("qkv", qkv, self.hidden), ("o", self.hidden, self.heads * self.head_dim)]
        if self.experts:
            shapes.append(("router", self.experts, self.hidden))
        else:
            shapes += [("gate_up", 2 * self.inter, self.hidden), ("down", self.hidden, self.inter)]
        return [*shapes, ("lm_head", self.vocab, self.hidden)]


MODELS: dict[str, ModelShape] = {
    m.name: m
    for m in (
        ModelShape("llama-3.1-8b", 4096, 14336, 32, 8, 128, 128256, 32),
        ModelShape("qwen3-30b-a3b", 2048, 768, 32, 4, 128, 151936, 48, 128, 8, True),
        ModelShape("qwen3-8b", 4096, 12288, 32, 8, 128, 151936, 36, 0, 0, True),
    )
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One operator at one shape; `l2` says whether weights (or KV) come from memory ("cold") or may stay in L2
    ("warm").
    """

    family: str
    params: tuple[Value, ...]
    l2: str = "cold"
    tier: int = 0

    @property
    def key(self) -> str:
        """Names the cell in result files; equal keys are the same measurement."""
        return f"{self.family}:{','.join(map(str, self.params))}:{self.l2}"

    @property
    def shape_key(self) -> str:
        """As `key`, without the cache state: the unit in which shapes are held out."""
        return f"{self.family}:{','.join(map(str, self.params))}"

    @property
    def split(self) -> str:
        """ "test" for the share of shapes that training must not see; decided by the shape alone."""
        digest = hashlib.blake2b(self.shape_key.encode(), digest_size=4).digest()
        held = self.tier > 0 and int.from_bytes(digest, "little") % 100 < _HELD_OUT_PERCENT
        return "test" if held else "train"

    def as_dict(self) -> dict[str, Value]:
        return dict(zip(COLUMNS[self.family], self.params))


_M0 = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_M1 = (
    3,
    6,
    12,
    24,
    40,
    48,
    56,
    72,
    80,
    96,
    112,
    144,
    160,
    192,
    224,
    288,
    320,
    384,
    448,
    640,
    768,
    896,
    1280,
    1536,
    1792,
    2560,
    3072,
    3584,
    5120,
    6144,
    7168,
    16384,
)
_TOKENS0 = (1, 4, 16, 64, 256, 1024, 4096, 8192)
_TOKENS1 = (2, 8, 32, 48, 96, 128, 192, 384, 512, 768, 1536, 2048, 3072, 6144, 16384)


def _gemm_cells(models: Sequence[ModelShape]) -> Iterator[Cell]:
    seen: set[tuple[int, int]] = set()
    for model in models:
        for name, n, k in model.gemms():
            if (n, k) in seen:
                continue
            seen.add((n, k))
            top = 512 if name == "lm_head" else 16384  # the head sees one row per sequence, not per token
            fp8 = name not in ("lm_head", "router")
            for tier, sizes in ((0, _M0), (1, _M1)):
                for m in (s for s in sizes if s <= top):
                    yield Cell("gemm", ("bfloat16", m, n, k), "cold", tier)
                    if tier == 0:
                        yield Cell("gemm", ("bfloat16", m, n, k), "warm", 1)
                    if fp8:
                        yield Cell("gemm", ("fp8", m, n, k), "cold", tier + 1)
    for n, k in (
        (1280, 8192),
        (8192, 1024),
        (7168, 8192),
        (8192, 3584),
        (2560, 8192),
        (8192, 2048),
        (14336, 8192),
        (8192, 7168),
        (10240, 8192),
        (8192, 8192),
        (57344, 8192),
        (8192, 28672),
        (5120, 5120),
        (25600, 5120),
        (1024, 1024),
        (2048, 2048),
        (16384, 16384),
        (512, 7168),
        (32064, 4096),
    ):
        for m in _M0:
            yield Cell("gemm", ("bfloat16", m, n, k), "cold", 2)


def _attention_cells(models: Sequence[ModelShape]) -> Iterator[Cell]:
    bf16 = "bfloat16"
    heads = sorted({(m.heads, m.kv_heads, m.head_dim) for m in models}, key=lambda h: -h[1])
    heads2 = [(64, 8, 128), (16, 2, 128), (8, 1, 128), (32, 32, 128), (64, 8, 64)]
    for extra, (h, kv, d) in [(0, x) for x in heads] + [(2, x) for x in heads2 if x not in heads]:
        for batch in (1, 4, 16, 64, 128, 256, 2, 8, 32, 96, 192, 512):
            for length in (512, 1024, 2048, 8192, 128, 256, 768, 1536, 3072, 4096, 16384, 32768, 65536, 131072):
                if batch * length > 1 << 21:
                    continue
                first = batch in (1, 4, 16, 64, 128, 256) and length in (512, 1024, 2048, 8192)
                yield Cell(
                    "attn_decode", (bf16, bf16, batch, 1, length, h, kv, d, 0), "cold", extra or (0 if first else 1)
                )
        for batch in (1, 2, 4, 8, 16):
            for q in (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 384, 768, 1536, 3072, 6144):
                if batch * q > 16384:
                    continue
                first = batch in (1, 2, 4) and q in (128, 512, 1024, 2048, 4096, 8192)
                yield Cell("attn_prefill", (bf16, bf16, batch, q, q, h, kv, d, 0), "cold", extra or (0 if first else 1))


def _mixed_cells(models: Sequence[ModelShape]) -> Iterator[Cell]:
    for model in models:
        if model.name == "qwen3-8b" and len(models) > 1:
            continue  # the same heads as llama-3.1-8b
        for chunk in (512, 2048, 7936, 64, 256, 1024, 4096):
            for cached in (0, 2048, 512, 8192):
                for n_decode in (0, 16, 64, 128, 4, 32, 256):
                    for kv in (1024, 4096, 256):
                        if (n_decode == 0 and (cached == 0 or kv != 1024)) or chunk + n_decode > 8448:
                            continue
                        first = (
                            chunk in (512, 2048, 7936)
                            and cached in (0, 2048)
                            and n_decode in (0, 16, 64)
                            and kv == 1024
                        )
                        yield Cell(
                            "attn_mixed", (model.name, 1, chunk, cached, n_decode, kv, 0), "cold", 0 if first else 2
                        )
        # Decode batches of unequal lengths: `spread` percent around the mean, what serving really runs.
        for n_decode in (8, 64, 256, 16, 32, 128):
            for kv in (512, 1024, 4096):
                for spread in (50, 90):
                    tier = 0 if n_decode in (8, 64, 256) and spread == 90 and kv == 1024 else 1
                    yield Cell("attn_mixed", (model.name, 1, 0, 0, n_decode, kv, spread), "cold", tier)


def _moe_cells(models: Sequence[ModelShape]) -> Iterator[Cell]:
    for model in (m for m in models if m.experts):
        for tier, sizes in ((0, _M0), (1, _M1)):
            for tokens in sizes:
                for distribution in ("balanced", "power_law_1.2"):
                    shape = (
                        "bfloat16",
                        distribution,
                        tokens,
                        model.hidden,
                        model.inter,
                        model.topk,
                        model.experts,
                        1,
                        1,
                    )
                    yield Cell("moe", shape, "cold", tier if distribution == "balanced" else tier + 1)
    for hidden, inter, topk, experts in (
        (4096, 14336, 2, 8),
        (2048, 1408, 4, 60),
        (2880, 2880, 4, 128),
        (7168, 256, 8, 256),
    ):
        for tokens in _TOKENS0:
            yield Cell("moe", ("bfloat16", "balanced", tokens, hidden, inter, topk, experts, 1, 1), "cold", 2)


_LAYER_OPS = (
    "emb",
    "input_layernorm",
    "post_attention_layernorm",
    "attn_rope",
    "mlp_act",
    "kv_write",
    "qk_norm",
    "add",
)
# Run once per step on the rows that are sampled, so their tokens are sequences.
_HEAD_OPS = ("final_layernorm", "logits_to_float", "argmax", "softmax", "gumbel_sample", "top_k_top_p")


def _layer_cells(models: Sequence[ModelShape]) -> Iterator[Cell]:
    for model in models:
        for tier, sizes in ((0, _TOKENS0), (1, _TOKENS1)):
            for op in (*_LAYER_OPS, *_HEAD_OPS):
                if (op == "qk_norm" and not model.qk_norm) or (op == "mlp_act" and model.experts):
                    continue
                for tokens in sizes:
                    if op in _HEAD_OPS and tokens > 512:
                        continue
                    shape = (
                        model.name,
                        op,
                        tokens,
                        1,
                        model.heads,
                        model.kv_heads,
                        model.hidden,
                        model.inter,
                        model.vocab,
                    )
                    yield Cell("layer_ops", shape, "warm", tier)
    for model in models:
        for m in _M0:
            for k in sorted({model.hidden, model.heads * model.head_dim, model.inter}):
                for op in ("scale_matrix", "dynamic_scale_matrix"):
                    yield Cell("quantize", (op, "fp8", m, k), "warm", 1)


def _copy_cells() -> Iterator[Cell]:
    for power in (3, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 4, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27):
        for direction, memory in (
            ("h2d", "pinned"),
            ("d2h", "pinned"),
            ("d2d", "device"),
            ("memset", "device"),
            ("h2d", "pageable"),
            ("d2h", "pageable"),
        ):
            yield Cell(
                "copy", (direction, memory, 1 << power), "warm", 0 if power % 4 == 0 and memory != "pageable" else 1
            )
    for nodes in (1, 32, 450, 2, 4, 8, 16, 64, 128, 256, 1024, 2048):
        yield Cell("graph", (nodes,), "warm", 0 if nodes in (1, 32, 450) else 1)


def plan_cells(
    models: Iterable[str] = (), families: Iterable[str] = (), tiers: Sequence[int] = (0, 1, 2)
) -> list[Cell]:
    """All cells in measuring order: by tier, and within a tier the families take turns, each in its own order.

    `models` limits tiers 0 and 1 to these reference models (default: all of `MODELS`), `families` to these tables.
    Raises ValueError for an unknown name.
    """
    names = list(models) or list(MODELS)
    wanted = set(families) or set(COLUMNS)
    for kind, given, known in (("model", names, MODELS), ("family", wanted, COLUMNS)):
        for name in given:
            if name not in known:
                raise ValueError(f"unknown {kind} '{name}'; known: {', '.join(known)}")
    shapes = [MODELS[n] for n in names]
    queues: dict[str, list[Cell]] = {f: [] for f in COLUMNS}
    seen: set[str] = set()
    sources = (
        _gemm_cells(shapes),
        _attention_cells(shapes),
        _moe_cells(shapes),
        _mixed_cells(shapes),
        _layer_cells(shapes),
        _copy_cells(),
    )
    for cell in (c for source in sources for c in source):
        if cell.key not in seen and cell.family in wanted and cell.tier in tiers:
            seen.add(cell.key)
            queues[cell.family].append(cell)
    ordered: list[Cell] = []
    for tier in sorted(set(tiers)):
        ordered += _take_turns([[c for c in q if c.tier == tier] for q in queues.values()])
    return ordered


def _take_turns(queues: list[list[Cell]]) -> list[Cell]:
    """Merges the queues so that each is consumed evenly over the whole: after any share of time, that share of each
    is done.

    Within a family the order of tier 0 and 1 stays; it is shuffled by a fixed seed in tier 2, where no order is better.
    """
    placed: list[tuple[float, int, Cell]] = []
    for number, queue in enumerate(queues):
        if queue and queue[0].tier == 2:
            random.Random(number).shuffle(queue)
        placed += [((i + 0.5) / len(queue), number, cell) for i, cell in enumerate(queue)]
    return [cell for _, _, cell in sorted(placed, key=lambda p: p[:2])]


def seconds(cell: Cell) -> float:
    """Rough wall time to measure a cell, set-up included; used to show a plan, never to time anything."""
    base = 0.045
    p = cell.as_dict()
    if cell.family == "gemm":
        work_us = 2.0 * int(p["m"]) * int(p["n"]) * int(p["k"]) / 6e8
    elif cell.family in ("attn_prefill", "attn_decode"):
        batch, q, kv, heads = (int(p[c]) for c in ("batch_size", "q_len", "kv_len", "num_heads"))
        work_us = 4.0 * batch * heads * q * kv * int(p["head_dim"]) / 3e8
    elif cell.family == "moe":
        work_us = 6.0 * int(p["num_tokens"]) * int(p["topk"]) * int(p["hidden_size"]) * int(p["inter_size"]) / 3e8
        base = 0.1
    elif cell.family == "copy":
        work_us = int(p["bytes"]) / (5e4 if p["direction"] in ("h2d", "d2h") else 2e6)
    else:
        work_us = 50.0
    return base + 40 * work_us * 1e-6


def within(cells: Sequence[Cell], budget_s: float) -> list[Cell]:
    """The leading cells whose estimated time adds up to the budget."""
    taken: list[Cell] = []
    used = 0.0
    for cell in cells:
        used += seconds(cell)
        if used > budget_s:
            break
        taken.append(cell)
    return taken


def cells_for_steps(model: str, max_batch: int, max_tokens: int, max_len: int) -> list[Cell]:
    """The cells that a case on `model` needs: batches up to `max_batch`, steps up to `max_tokens`, lengths up to
    `max_len`.
    """
    needed = []
    for cell in plan_cells([model], tiers=(0, 1)):
        p = cell.as_dict()
        rows = int(p.get("m", p.get("num_tokens", 0)))
        batch = int(p.get("batch_size", p.get("n_decode", 0)))
        kv = max(int(p.get("kv_len", 0)), int(p.get("kv_decode", 0)), int(p.get("kv_prefill", 0)))
        if rows <= 2 * max_tokens and batch <= 2 * max_batch and kv <= 2 * max_len and cell.tier == 0:
            needed.append(cell)
    return needed
