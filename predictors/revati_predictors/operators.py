"""The operators that have a duration: what one measured row, or one or several launches of a framework, amounts to.

Sizes are elements or tokens unless the name says bytes. Data types are the short names of `DTYPE_BYTES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "DTYPE_BYTES",
    "Attention",
    "Collective",
    "Copy",
    "Gemm",
    "GraphLaunch",
    "Mla",
    "Moe",
    "Operator",
    "Quantise",
    "Stream",
    "attention_phase",
    "family_of",
]

DTYPE_BYTES = {
    "bfloat16": 2.0,
    "float16": 2.0,
    "float32": 4.0,
    "tf32": 4.0,
    "float64": 8.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int8": 1.0,
    "int32": 4.0,
    "nvfp4": 0.5625,
    "mxfp4": 0.53125,
    "w4a16": 0.5625,
}


@dataclass(frozen=True, slots=True)
class Gemm:
    """y[m,n] = x[m,k] W[n,k]^T, `batch` times."""

    m: int
    n: int
    k: int
    dtype: str = "bfloat16"
    batch: int = 1
    quantised_input: bool = False  # fp8 rows of the tables include the activation quantisation


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention layer on sequences ((q_len, kv_len), ...), kv_len counting the query tokens; causal."""

    seqs: tuple[tuple[int, int], ...]
    heads_q: int
    heads_kv: int
    head_dim: int
    q_dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"
    window: int = 0
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Mla:
    """DeepSeek latent attention core; `heads` are those of this rank."""

    seqs: tuple[tuple[int, int], ...]
    heads: int
    kv_dtype: str = "bfloat16"
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Moe:
    """A fused MoE layer: routing, permutation, two grouped GEMMs, activation and combination."""

    tokens: int
    hidden: int
    inter: int
    topk: int
    experts: int
    tp: int = 1
    ep: int = 1
    dtype: str = "bfloat16"
    distribution: str = "power_law_1.01"
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Quantise:
    """fp8 quantisation of x[m,k]."""

    m: int
    k: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A kernel that streams bytes: `op`: norm, activation, rope, embedding, sampling, kv_write ..."""

    op: str
    bytes: float
    rows: int = 0
    hidden: int = 0
    blocks: int = 0
    known: bool = True  # False: the bytes are a guess from the grid


@dataclass(frozen=True, slots=True)
class Copy:
    """`direction`: h2d, d2h, d2d, p2p, h2h or memset."""

    bytes: int
    direction: str


@dataclass(frozen=True, slots=True)
class Collective:
    """`bytes` per rank; `impl` is nccl, custom or one_shot; `nodes` > 1 crosses the network."""

    op: str
    bytes: int
    ranks: int
    nodes: int = 1
    impl: str = "nccl"


@dataclass(frozen=True, slots=True)
class GraphLaunch:
    """What one graph launch costs the device beyond its kernels."""

    nodes: int


Operator: TypeAlias = "Gemm | Attention | Mla | Moe | Quantise | Stream | Copy | Collective | GraphLaunch"

_STREAM_FAMILY = {
    "norm": "NORM",
    "activation": "ACTIVATION",
    "rope": "ROPE",
    "embedding": "EMBEDDING",
    "sampling": "SAMPLING",
    "kv_write": "KV_WRITE",
    "elementwise": "ELEMENTWISE",
    "metadata": "METADATA",
}


def attention_phase(seqs: tuple[tuple[int, int], ...]) -> str:
    """'decode' if every sequence has one query token, 'prefill' if none, else 'mixed'."""
    ones = sum(1 for q, _ in seqs if q == 1)
    if ones == len(seqs):
        return "decode"
    return "prefill" if ones == 0 else "mixed"


def family_of(operator: Operator) -> str:
    """The name in enum rvt_family under which the operator's time is accounted."""
    if isinstance(operator, Stream):
        return _STREAM_FAMILY.get(operator.op, "OTHER")
    return {
        Gemm: "GEMM",
        Attention: "ATTENTION",
        Mla: "MLA",
        Moe: "MOE",
        Quantise: "QUANT",
        Copy: "COPY",
        Collective: "COLLECTIVE",
        GraphLaunch: "OTHER",
    }[type(operator)]
