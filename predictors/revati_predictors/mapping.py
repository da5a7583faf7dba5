"""From what the preload library reports to operators. See kernel_table.py for the kernels.

Every record becomes a `Resolved`: operators with weights whose durations add up to the record's duration. A launch
that belongs to an operator carried by another launch resolves to no parts (0 ns), so nothing is counted twice; a kernel
that no rule knows is priced as a generic elementwise kernel from its grid, so nothing is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from revati_predictors.facts import ModelFacts
from revati_predictors.kernel_table import RULES, Rule
from revati_predictors.operators import (
    Attention,
    Collective,
    Copy,
    Gemm,
    GraphLaunch,
    Mla,
    Moe,
    Operator,
    Quantise,
    Stream,
)
from revati_predictors.wire import COPY_KIND, DTYPE, KIND, NEEDS_BATCH, NEEDS_SEQS, NEEDS_TOKENS, OpRecord

__all__ = ["Resolved", "find_rule", "resolve"]

_COMPILED = [(re.compile(rule.pattern), rule) for rule in RULES]
_WIRE_DTYPE = {
    DTYPE["BF16"]: "bfloat16",
    DTYPE["F16"]: "float16",
    DTYPE["F32"]: "float32",
    DTYPE["F8E4M3"]: "fp8",
    DTYPE["F8E5M2"]: "fp8",
    DTYPE["F4E2M1"]: "nvfp4",
    DTYPE["I8"]: "int8",
    DTYPE["F64"]: "float64",
    DTYPE["TF32"]: "tf32",
}
_COPY_NAME = {number: name.lower() for name, number in COPY_KIND.items()}
_GUESSED_KV = 1024


@dataclass(slots=True)
class Resolved:
    """The operators behind one record.

    parts: (operator, weight); the record lasts the weighted sum.
    whole, kv_write: set on attention and KV-write launches. The measured attention operator includes the KV write;
        the write launch takes min(kv_write, 0.3 x whole), the attention launches what remains.
    is_write: this record is the write launch.
    guessed: sizes were not observed, so the prediction is a fallback whatever the model says.
    """

    parts: list[tuple[Operator, float]]
    family: str
    flags: int = 0
    whole: list[Operator] | None = None
    kv_write: Stream | None = None
    is_write: bool = False
    guessed: bool = False


@lru_cache(maxsize=65536)
def find_rule(name: str) -> Rule | None:
    """The first rule whose pattern occurs in the kernel name."""
    for pattern, rule in _COMPILED:
        if pattern.search(name):
            return rule
    return None


def _tokens(record: OpRecord) -> tuple[int, bool]:
    """(tokens of the step after padding, whether they were observed)."""
    if record.padded:
        return record.padded, True
    if record.seqs:
        return sum(q for q, _ in record.seqs), True
    return 1, False


def _sequences(record: OpRecord) -> tuple[tuple[tuple[int, int], ...], bool]:
    """The batch, or a stand-in of equal decodes when nobody observed it."""
    if record.seqs:
        return record.seqs, True
    return ((1, _GUESSED_KV),) * max(1, min(record.padded, 512)), False


def _grid(record: OpRecord) -> tuple[int, int]:
    """(blocks, threads per block)."""
    p = record.p
    if len(p) < 6:
        return 1, 128
    return max(1, p[0] * p[1] * p[2]), max(1, p[3] * p[4] * p[5])


def _kv_write_op(record: OpRecord, facts: ModelFacts) -> Stream:
    tokens = sum(q for q, _ in record.seqs) if record.seqs else _tokens(record)[0]
    _, heads_kv = facts.local_heads()
    width = heads_kv * (facts.head_dim or 128)
    return Stream("kv_write", tokens * width * 2 * (2.0 + (1.0 if facts.kv_cache_dtype() == "fp8" else 2.0)), tokens)


def _attention_op(seqs: tuple[tuple[int, int], ...], facts: ModelFacts, name: str) -> Attention:
    heads_q, heads_kv = facts.local_heads() if facts.heads_q else (32, 8)
    return Attention(
        seqs, heads_q, heads_kv, facts.head_dim or 128, facts.dtype, facts.kv_cache_dtype(), facts.window, name
    )


def _subset(seqs: tuple[tuple[int, int], ...], which: str) -> tuple[tuple[int, int], ...]:
    """The sequences that a decode-only or prefill-only kernel of a split backend works on."""
    if which == "all":
        return seqs
    chosen = tuple(s for s in seqs if (s[0] == 1) == (which == "decode"))
    return chosen or seqs  # tensor-core decode runs on the prefill kernel, speculative decode on the decode kernel


def _attention(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    if facts.kv_lora_rank:  # latent attention expands its keys for prefills and runs an ordinary kernel on them
        return _mla(record, facts, Rule("", "mla", "MLA", "prefill"))
    seqs, observed = _sequences(record)
    own = _subset(seqs, rule.arg)
    parts = [_attention_op(own, facts, rule.arg)]
    whole: list[Operator] = list(parts)
    if own is not seqs and len(own) != len(seqs):
        rest = tuple(s for s in seqs if (s[0] == 1) != (own[0][0] == 1))
        whole.append(_attention_op(rest, facts, rule.arg))
    return Resolved(
        [(parts[0], 1.0)],
        "ATTENTION",
        NEEDS_BATCH,
        whole,
        _kv_write_op(record, facts),
        False,
        not observed or not facts.heads_q,
    )


def _kv_write(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    if facts.kv_lora_rank:
        return Resolved([], "MLA")
    seqs, observed = _sequences(record)
    whole: list[Operator] = [_attention_op(seqs, facts, "all")]
    return Resolved(
        [], "KV_WRITE", NEEDS_BATCH, whole, _kv_write_op(record, facts), True, not observed or not facts.heads_q
    )


def _mla(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    seqs, observed = _sequences(record)
    seqs = _subset(seqs, rule.arg or "decode")
    heads = facts.local_heads()[0] if facts.heads_q else 128
    return Resolved(
        [(Mla(seqs, heads, facts.kv_cache_dtype(), record.name[:64]), 1.0)],
        "MLA",
        NEEDS_BATCH,
        guessed=not observed or not facts.heads_q,
    )


def _moe(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    tokens, observed = _tokens(record)
    if not facts.experts:
        return _elementwise(record, facts, Rule("", "elementwise", "MOE"), guessed=True)
    moe_tp = max(1, facts.tp // facts.ep)
    op = Moe(
        tokens,
        facts.hidden,
        facts.expert_width(),
        facts.topk,
        facts.experts,
        moe_tp,
        facts.ep,
        facts.quantization or facts.dtype,
        facts.moe_distribution,
        record.name[:64],
    )
    return Resolved([(op, 1.0 / rule.per_layer)], "MOE", NEEDS_TOKENS, guessed=not observed)


def _name_integers(name: str) -> list[int]:
    """Unsigned template arguments of a kernel name, mangled (Lj5120E) or not (5120u)."""
    return [int(a or b) for a, b in re.findall(r"Lj(\d+)E|\b(\d+)u\b", name)]


def _gemm_kernel(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    tokens, observed = _tokens(record)
    dtype = facts.quantization if facts.quantization in ("fp8", "fp8_block", "nvfp4", "w4a16") else facts.dtype
    if rule.arg == "name_nk":
        sizes = _name_integers(record.name)
        if len(sizes) >= 4 and sizes[3] > 1:
            return _moe(record, facts, Rule("", "moe", "MOE", "", 2))
        if len(sizes) >= 3 and sizes[1] and sizes[2]:
            kind = "fp8_block" if "fp8" in record.name else dtype
            op = Gemm(tokens, sizes[1], sizes[2], kind, 1, kind.startswith("fp8"))
            return Resolved([(op, 1.0)], "GEMM", NEEDS_TOKENS, guessed=not observed)
    shapes = facts.dense_gemms()
    if not shapes:
        return _elementwise(record, facts, Rule("", "elementwise", "GEMM"), guessed=True)
    # Which linear layer launched it is not visible: each launch costs the mean, so a layer costs the right sum.
    parts: list[tuple[Operator, float]] = [
        (Gemm(tokens, n, k, dtype, 1, dtype.startswith(("fp8", "nvfp4"))), 1.0 / len(shapes)) for n, k in shapes
    ]
    return Resolved(parts, "GEMM", NEEDS_TOKENS, guessed=not observed)


def _quant(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    if facts.quantization:
        return Resolved([], "QUANT")  # the measured product and MoE rows include it
    blocks, _ = _grid(record)
    return Resolved([(Quantise(blocks, facts.hidden or 4096), 1.0)], "QUANT", 0, guessed=not facts.hidden)


def _allreduce(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    tokens, observed = _tokens(record)
    ranks = max(2, facts.tp)
    found = re.search(r"Li(\d+)E|,\s*(?:\(int\))?(\d+)\s*[,>]", record.name)
    if found:
        digits = int(found.group(1) or found.group(2))
        ranks = digits if 2 <= digits <= 16 else ranks
    op = Collective("all_reduce", tokens * (facts.hidden or 4096) * 2, ranks, 1, rule.arg)
    return Resolved([(op, 1.0)], "COLLECTIVE", NEEDS_TOKENS, guessed=not observed or not facts.hidden)


def _activation(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    """An activation between the two grouped products belongs to the MoE layer, else it is a kernel of its own."""
    if not facts.experts or record.name.startswith("triton_"):
        return _stream(record, facts, rule)
    tokens, _ = _tokens(record)
    of_experts = _grid(record)[0] % max(1, tokens * facts.topk) == 0
    resolved = Resolved([], "MOE") if of_experts else _stream(record, facts, rule)
    resolved.flags |= NEEDS_TOKENS  # with other tokens the same grid is the other kind
    return resolved


_GRID_ROWS = re.compile(r"rms_norm|act_and_mul|silu_and_mul|rotary_embedding|RMSNormKernel")


def _stream(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    tokens, observed = _tokens(record)
    blocks, _ = _grid(record)
    if not observed and _GRID_ROWS.search(record.name):
        tokens, observed = blocks, True
    hidden = facts.hidden
    heads_q, heads_kv = facts.local_heads()
    width = facts.intermediate if not facts.experts else facts.shared_experts * facts.expert_width()
    rows = max(1, len(record.seqs)) if rule.arg == "logits" else tokens
    per_row = {
        "norm": 4.0 * hidden,
        "norm_residual": 8.0 * hidden,
        "activation": 6.0 * width / facts.tp,
        "rope": 4.0 * (heads_q + heads_kv) * facts.head_dim,
        "embedding": 4.0 * hidden,
        "logits": 4.0 * facts.vocab,
    }[rule.arg]
    if not per_row:
        return _elementwise(record, facts, Rule("", "elementwise", rule.family))
    op_name = {"norm_residual": "norm", "logits": "sampling"}.get(rule.arg, rule.arg)
    flag = NEEDS_SEQS if rule.arg == "logits" else NEEDS_TOKENS
    return Resolved([(Stream(op_name, rows * per_row, rows, hidden), 1.0)], rule.family, flag, guessed=not observed)


_WIDTHS = (("BFloat16", 2), ("Half", 2), ("bf16", 2), ("double", 8), ("long", 8), ("int64", 8), ("float", 4))


def _elementwise(record: OpRecord, facts: ModelFacts, rule: Rule, guessed: bool = False) -> Resolved:
    """A generic kernel: bytes as reported, else four elements a thread, read and written once."""
    del facts
    blocks, threads = _grid(record)
    reported = record.p[7] if len(record.p) > 7 else -1
    width = next((size for word, size in _WIDTHS if word in record.name), 4)
    touched = float(reported) if reported > 0 else blocks * threads * 4.0 * width * 2.0
    op = {"METADATA": "metadata"}.get(rule.family, "elementwise")
    return Resolved([(Stream(op, touched, 0, 0, blocks, reported > 0), 1.0)], rule.family, 0, guessed=guessed)


def _metadata(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    return _elementwise(record, facts, rule)


def _part(record: OpRecord, facts: ModelFacts, rule: Rule) -> Resolved:
    del record, facts
    return Resolved([], rule.family)


_ROLES: dict[str, Callable[[OpRecord, ModelFacts, Rule], Resolved]] = {
    "attention": _attention,
    "kv_write": _kv_write,
    "mla": _mla,
    "moe": _moe,
    "gemm": _gemm_kernel,
    "quant": _quant,
    "allreduce": _allreduce,
    "activation": _activation,
    "stream": _stream,
    "elementwise": _elementwise,
    "metadata": _metadata,
    "part": _part,
}
_UNKNOWN = Rule("", "elementwise", "OTHER")


def _cublas_gemm(record: OpRecord) -> Resolved:
    m, n, k, batch = ([*list(record.p[:4]), 1, 1, 1, 1])[:4]
    dtype = _WIRE_DTYPE.get(record.dtype, "bfloat16")
    return Resolved([(Gemm(max(1, m), max(1, n), max(1, k), dtype, max(1, batch)), 1.0)], "GEMM")


_NCCL_NAMES = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
    "all_to_all": "alltoall",
    "send": "send_recv",
    "recv": "send_recv",
    "sendrecv": "send_recv",
}


def _collective(record: OpRecord) -> Resolved:
    nbytes, ranks, nodes = ([*list(record.p[:3]), 0, 2, 1])[:3]
    name = record.name.lower()
    return Resolved(
        [(Collective(_NCCL_NAMES.get(name, name or "all_reduce"), max(0, nbytes), max(1, ranks), max(1, nodes)), 1.0)],
        "COLLECTIVE",
    )


def resolve(record: OpRecord, facts: ModelFacts) -> Resolved:
    """The operators behind one record of the wire."""
    if record.kind == KIND["KERNEL"]:
        rule = find_rule(record.name)
        if rule is None:
            return _elementwise(record, facts, _UNKNOWN, guessed=True)
        return _ROLES[rule.role](record, facts, rule)
    if record.kind == KIND["GEMM"]:
        return _cublas_gemm(record)
    if record.kind == KIND["COPY"]:
        direction = _COPY_NAME.get(record.p[1] if len(record.p) > 1 else 3, "d2d")
        return Resolved([(Copy(max(0, record.p[0]), direction), 1.0)], "COPY")
    if record.kind == KIND["MEMSET"]:
        return Resolved([(Copy(max(0, record.p[0]), "memset"), 1.0)], "COPY")
    if record.kind == KIND["COLLECTIVE"]:
        return _collective(record)
    return Resolved([(GraphLaunch(record.p[0] if record.p else 0), 1.0)], "OTHER")
