"""Durations from packs: rows of a family's table, and the operators of a running framework.

An operator that the GPU's pack does not cover is borrowed from the nearest GPU that has it (ratio to the roofline x the
own roofline, marked extrapolated), else it is the roofline (marked fallback).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors.families import VARIANTS, Columns, Family
from revati_predictors.gpus import Gpu
from revati_predictors.learned import Section
from revati_predictors.operators import Attention, Collective, Gemm, Mla, Moe, Operator, Stream
from revati_predictors.packs import Pack, SectionEntry, load_pack
from revati_predictors.predictor import EXTRAPOLATED, FALLBACK, INTERPOLATED, Estimate, RooflinePredictor
from revati_predictors.roofline import attention_work, estimate_us, quantise_us
from revati_predictors.tables import stream_bytes

__all__ = ["LearnedPredictor"]

Floats = NDArray[np.float64]
_TRANSFER_WIDTH = 0.22  # log width that borrowing from another GPU adds
# Streaming kernels of a layer, as tables of layers name them.
_LAYER_STREAMS = {"norm": "layernorm", "activation": "act_fn", "rope": "rotary_emb"}
_GROUPS = 8  # unequal sequences are predicted as at most this many lengths
# Keys of a decode are taken in pages: kernels read whole tiles of them, and from one step to the next most rows of a
# batch are then the same as before. A row that was asked already costs a look-up, a new one up to a millisecond.
_PAGE = 16
_ROWS_KEPT = 200_000
# What is priced before anybody asks: tokens of a batch, sequences that decode, keys of each.
_TOKENS_AHEAD, _DECODES_AHEAD, _KEYS_AHEAD = 4096, 64, 2048


class LearnedPredictor:
    """A Predictor backed by packs. framework / version: whose kernels operators mean, e.g. ('vllm', '0.25.1')."""

    def __init__(self, gpu: Gpu, framework: str = "vllm", version: str = "", root: Path | None = None) -> None:
        self.gpu, self.framework, self.version = gpu, framework, version
        self._roofline = RooflinePredictor(gpu)
        self._packs: list[Pack] = []
        for key in dict.fromkeys((gpu.key, gpu.nearest, "h100-sxm", "a100-sxm", "rtx-pro-6000", "h800")):
            pack = load_pack(key, root)
            if pack is not None and pack.entries:
                self._packs.append(pack)
        self._chosen: dict[tuple[Any, ...], tuple[Section, bool] | None] = {}
        self._asked: dict[tuple[Any, ...], Estimate] = {}
        self._layers: dict[str, list[tuple[str, float, float]]] | None = None

    def for_framework(self, framework: str, version: str) -> LearnedPredictor:
        """The same packs, for another framework's kernels."""
        other = object.__new__(LearnedPredictor)
        other.gpu, other.framework, other.version = self.gpu, framework, version
        other._roofline, other._packs, other._chosen = self._roofline, self._packs, self._chosen
        other._layers, other._asked = None, {}
        return other

    # --- rows of a table -----------------------------------------------------------------------------------------

    def rows(
        self, family: Family, columns: Columns, framework: str, version: str, graph_timed: bool = False
    ) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
        """(us, lo_us, hi_us, source) of rows of one variant."""
        roof = np.asarray(family.roofline_us(self.gpu, columns), float)
        n = len(roof)
        us, low, high, source = roof.copy(), roof / 2.5, roof * 2.5, np.full(n, FALLBACK)
        for texts, rows in _groups_by_text(family, columns):
            part = {name: values[rows] for name, values in columns.items()} if len(rows) < n else columns
            found = self._section(family, part, texts, framework, version, graph_timed)
            if found is None:
                continue
            section, borrowed = found
            y, below, above, where = section.predict(part)
            if borrowed:
                below, above = below + _TRANSFER_WIDTH, above + _TRANSFER_WIDTH
                where = np.full(len(rows), EXTRAPOLATED)
            us[rows] = roof[rows] * np.exp(y)
            low[rows], high[rows] = roof[rows] * np.exp(y - below), roof[rows] * np.exp(y + above)
            source[rows] = where
        return us, low, high, source

    def _section(
        self, family: Family, columns: Columns, texts: tuple[Any, ...], framework: str, version: str, graph_timed: bool
    ) -> tuple[Section, bool] | None:
        memo = (family.name, texts, framework, version, graph_timed)
        if memo not in self._chosen:
            self._chosen[memo] = self._find(family, columns, framework, version, graph_timed)
        return self._chosen[memo]

    def _find(
        self, family: Family, columns: Columns, framework: str, version: str, graph_timed: bool
    ) -> tuple[Section, bool] | None:
        dtypes = set(map(str, columns["dtype"].tolist())) if "dtype" in columns else set()
        for pack in self._packs:
            entries = pack.candidates(family.name, framework, version)
            # Products of layers know few shapes: they stand for all others only where there is nothing else.
            entries = [e for e in entries if not e.raw.get("from_layers")] or entries
            if graph_timed:  # what a framework launches inside a graph must not cost the host's launch time
                entries = [e for e in entries if not dtypes & set(e.eager_dtypes)]
            for entry in entries:
                section = pack.section(entry)
                if section.covers_text(columns):
                    return section, pack.gpu.key != self.gpu.key
        return None

    def _products(self, columns: dict[str, NDArray[Any]]) -> list[Estimate]:
        """Rows of `gemm`; a layer that was measured on this card with this very version goes before other tables.

        Beyond the tokens that it was measured with, other tables go first again.
        """
        out = self._ask("gemm", columns)
        pack = self._packs[0] if self._packs and self._packs[0].gpu.key == self.gpu.key else None
        if pack is None:
            return out
        for entry in pack.candidates("gemm", self.framework, self.version)[:1]:
            if not entry.raw.get("from_layers") or (entry.framework, entry.version) != (self.framework, self.version):
                continue
            shapes = {("bfloat16", float(n), float(k)) for n, k in entry.raw["shapes"]}
            wanted = zip(*(columns[c].tolist() for c in ("dtype", "n", "k")))
            chosen = np.flatnonzero([shape in shapes for shape in wanted])
            if len(chosen):
                part = {name: values[chosen] for name, values in columns.items()}
                roof = np.asarray(VARIANTS["gemm"].roofline_us(self.gpu, part), float)
                y, below, above, source = pack.section(entry).predict(part)
                figures = (roof * np.exp(y), roof * np.exp(y - below), roof * np.exp(y + above), source)
                for i, *row in zip(chosen.tolist(), *(f.tolist() for f in figures)):
                    if row[-1] != EXTRAPOLATED or out[i].source >= EXTRAPOLATED:
                        out[i] = Estimate(*row)
        return out

    def _layer_widths(self) -> dict[str, list[tuple[str, float, float]]]:
        """(model, tp, bytes per token) of this GPU's measured streaming kernels, by the operator's name."""
        if self._layers is None:
            self._layers = {}
            for pack in self._packs[:1]:
                for entry in pack.candidates("layer_ops_eager", self.framework, self.version)[:1]:
                    grid = pack.section(entry).grid if pack.gpu.key == self.gpu.key else None
                    for model, layer, tp in grid.configs if grid is not None else ():
                        for op, name in _LAYER_STREAMS.items():
                            sizes = stream_bytes(model, tp) if layer == name else None
                            if sizes is not None:
                                self._layers.setdefault(op, []).append((model, tp, sizes[op]))
        return self._layers

    def _prefers_mixed_table(self, variant: str, op: Attention) -> bool:
        """Whether batches of one kind are better taken from this GPU's table of mixed batches than from `variant`."""
        if op.window or op.kv_dtype.startswith("fp8") or not self._packs or self._packs[0].gpu.key != self.gpu.key:
            return False
        heads = {"heads_q": op.heads_q, "heads_kv": op.heads_kv, "head_dim": op.head_dim}
        mixed = [
            e
            for e in self._packs[0].candidates("attn_mixed", self.framework, self.version)
            if all(e.raw["box"][name][0] <= value <= e.raw["box"][name][1] for name, value in heads.items())
        ]
        own = self._packs[0].candidates(variant, self.framework, self.version)
        if not mixed or not own:
            return bool(mixed)
        wanted = (self.framework, self.version)
        return (mixed[0].framework, mixed[0].version) == wanted != (own[0].framework, own[0].version)

    def entries(self) -> list[tuple[Pack, SectionEntry]]:
        """Sections that can be used, own ones first."""
        return [(pack, entry) for pack in self._packs for entry in pack.entries]

    # --- operators -----------------------------------------------------------------------------------------------

    def predict(self, operators: Sequence[Operator]) -> list[Estimate]:
        """One estimate for each operator; operators of one kind are evaluated together."""
        out: list[Estimate | None] = [None] * len(operators)
        by_kind: dict[type, list[int]] = {}
        for i, op in enumerate(operators):
            by_kind.setdefault(type(op), []).append(i)
        for kind, rows in by_kind.items():
            handler = _HANDLERS.get(kind)
            ops = [operators[i] for i in rows]
            estimates = handler(self, ops) if handler else self._roofline.predict(ops)
            for i, estimate in zip(rows, estimates):
                out[i] = estimate
        return [e if e is not None else self._roofline.predict([op])[0] for e, op in zip(out, operators)]

    def to_come(self, op: Operator) -> Iterator[Operator]:
        """A layer with any number of rows, prompts of any length, decodes of equal length: what batches are made of."""
        if isinstance(op, Gemm) and op.batch == 1:
            yield from (replace(op, m=rows) for rows in range(1, _TOKENS_AHEAD + 1))
        elif isinstance(op, Moe):
            yield from (replace(op, tokens=tokens) for tokens in range(1, _TOKENS_AHEAD + 1))
        elif isinstance(op, (Attention, Mla)):
            yield from (replace(op, seqs=((tokens, tokens),)) for tokens in range(2, _TOKENS_AHEAD + 1))
            for count in range(1, _DECODES_AHEAD + 1):
                yield from (replace(op, seqs=((1, keys),) * count) for keys in range(_PAGE, _KEYS_AHEAD + 1, _PAGE))

    def _ask(self, variant: str, columns: Columns, graph_timed: bool = True) -> list[Estimate]:
        us, low, high, source = self.rows(VARIANTS[variant], columns, self.framework, self.version, graph_timed)
        return [Estimate(*row) for row in zip(us.tolist(), low.tolist(), high.tolist(), source.tolist())]

    def _ask_once(self, variant: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[Estimate]:
        """As _ask, for rows of values in the order of `names`; each different row is evaluated once."""
        missing = [row for row in dict.fromkeys(rows) if (variant, row) not in self._asked]
        if missing:
            if len(self._asked) > _ROWS_KEPT:
                self._asked.clear()
                missing = list(dict.fromkeys(rows))
            text = VARIANTS[variant].text
            columns = {n: _text(v) if n in text else _float(v) for n, v in zip(names, zip(*missing))}
            for row, estimate in zip(missing, self._ask(variant, columns)):
                self._asked[variant, row] = estimate
        return [self._asked[variant, row] for row in rows]


def _groups_by_text(family: Family, columns: Columns) -> list[tuple[tuple[Any, ...], NDArray[np.int64]]]:
    """Rows by the text of their hard columns, so that each group has one section."""
    names = [c for c in family.config if c in family.text and c not in family.soft]
    n = len(next(iter(columns.values())))
    if not names:
        return [((), np.arange(n))]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(zip(*(columns[c].tolist() for c in names))):
        groups.setdefault(key, []).append(row)
    return [(key, np.array(rows)) for key, rows in groups.items()]


def _text(values: Sequence[str]) -> NDArray[Any]:
    return np.array(values, dtype=object)


def _float(values: Sequence[float]) -> Floats:
    return np.array(values, float)


def _scaled(e: Estimate, factor: float) -> Estimate:
    return Estimate(e.us * factor, e.lo_us * factor, e.hi_us * factor, e.source)


def _roofline_of_others(self: LearnedPredictor, ops: Sequence[Operator], known: Sequence[int]) -> list[Estimate]:
    """Estimates with the roofline where `known` does not say that a table will answer."""
    out = [Estimate(0.0, 0.0, 0.0, FALLBACK)] * len(ops)
    others = sorted(set(range(len(ops))) - set(known))
    for i, estimate in zip(others, self._roofline.predict([ops[i] for i in others])):
        out[i] = estimate
    return out


_GEMM_DTYPES = {"float16": "bfloat16", "w4a16": "bfloat16", "int8": "fp8"}


def _gemm(self: LearnedPredictor, ops: Sequence[Gemm]) -> list[Estimate]:
    dtypes = [_GEMM_DTYPES.get(op.dtype, op.dtype) for op in ops]
    known = [i for i, d in enumerate(dtypes) if d in ("bfloat16", "fp8", "fp8_block", "nvfp4")]
    out = _roofline_of_others(self, ops, known)
    if not known:
        return out
    columns = {
        "dtype": _text([dtypes[i] for i in known]),
        **{c: _float([getattr(ops[i], c) for i in known]) for c in "mnk"},
    }
    for i, e in zip(known, self._products(columns)):
        op = ops[i]
        if op.batch > 1:  # ratio of the single product, roofline of the whole batch
            single = estimate_us(self.gpu, Gemm(op.m, op.n, op.k, op.dtype))
            e = _scaled(e, estimate_us(self.gpu, op) / single)
            e = e._replace(source=max(e.source, EXTRAPOLATED), lo_us=e.lo_us * 0.8, hi_us=e.hi_us * 1.25)
        if dtypes[i].startswith("fp8") and not op.quantised_input:
            quant = float(quantise_us(self.gpu, op.m, op.k))
            e = _scaled(e, max(0.4, 1.0 - quant / e.us))
        out[i] = e
    return out


def _pages(keys: float) -> int:
    """Keys of a decode in whole pages, to the nearest."""
    return _PAGE * round(keys / _PAGE) if keys >= _PAGE else round(keys)


def _lengths(lengths: Sequence[int]) -> list[tuple[float, float]]:
    """(length, share) of unequal sequences in at most _GROUPS groups of neighbours."""
    n = len(lengths)
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length] = counts.get(length, 0) + 1
    if len(counts) <= _GROUPS:
        return [(float(length), count / n) for length, count in sorted(counts.items())]
    ordered = sorted(lengths)
    edges = [n * i // _GROUPS for i in range(_GROUPS + 1)]
    return [(float(_pages(sum(ordered[i:j]) / (j - i))), (j - i) / n) for i, j in pairwise(edges)]


class _Rows:
    """Rows of one attention variant collected for all operators, evaluated in one go."""

    def __init__(self, decode: bool) -> None:
        self.decode = decode
        self.rows: list[tuple[Any, ...]] = []

    def add(self, op: Attention, batch: float, q: float, kv: float) -> int:
        self.rows.append(
            (
                op.q_dtype if op.q_dtype != "float16" else "bfloat16",
                "fp8" if op.kv_dtype.startswith("fp8") else "bfloat16",
                op.heads_q,
                op.heads_kv,
                op.head_dim,
                op.window if 0 < op.window < kv else 0,
                batch,
                q,
                kv,
            )
        )
        return len(self.rows) - 1

    def estimates(self, predictor: LearnedPredictor) -> list[Estimate]:
        names = (
            "q_dtype",
            "kv_dtype",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "window_size",
            "batch_size",
            "q_len",
            "kv_len",
        )
        return predictor._ask_once("attn_decode" if self.decode else "attn_prefill", names, self.rows)


def _attention(self: LearnedPredictor, ops: Sequence[Attention]) -> list[Estimate]:
    """Every sequence contributes its share of a batch of its own length; no batch ends before its longest sequence."""
    decode, prefill = _Rows(True), _Rows(False)
    plans: list[tuple[list[tuple[int, float]], int, list[tuple[int, float]], int]] = []
    for op in ops:
        ones = [_pages(kv) for q, kv in op.seqs if q == 1]
        many = [(q, kv) for q, kv in op.seqs if q > 1]
        d = [(decode.add(op, len(ones), 1, length), share) for length, share in _lengths(ones)] if ones else []
        d_alone = decode.add(op, 1, 1, max(ones)) if len(set(ones)) > 1 else -1
        p = [(prefill.add(op, len(many), q, kv), share) for q, kv, share in _chunks(many)] if many else []
        p_alone = prefill.add(op, 1, *max(many, key=lambda s: s[0] * s[1])) if len(set(many)) > 1 else -1
        plans.append((d, d_alone, p, p_alone))
    answers_d, answers_p = decode.estimates(self), prefill.estimates(self)
    together = _from_mixed_table(self, ops)
    out = []
    for op, (d, d_alone, p, p_alone) in zip(ops, plans):
        parts = [
            _longest(_blend([(answers[i], share) for i, share in rows]), answers[alone] if alone >= 0 else None)
            for rows, alone, answers in ((d, d_alone, answers_d), (p, p_alone, answers_p))
            if rows
        ]
        if not parts:
            out.append(self._roofline.predict([op])[0])
        elif op in together:
            out.append(together[op])
        elif len(parts) == 1:
            out.append(parts[0])
        else:
            out.append(_mixed(self.gpu, *parts))
    return out


# Where batches run on FlashAttention 2, whose kernel for unequal queries does not split long decodes over SMs: mixed
# batches are much slower than the sum of their parts, and measured. Elsewhere (FlashAttention 3, TensorRT-LLM kernels)
# there is no such table.
_UNSPLIT = ("a100-sxm", "l40s", "rtx-pro-6000")


def _from_mixed_table(self: LearnedPredictor, ops: Sequence[Attention]) -> dict[Attention, Estimate]:
    """What the table of mixed batches (one prefill chunk, equal decodes) says about the batches that it is best for.

    Mixed ones wherever FlashAttention 2 runs; batches of one kind where this GPU's table of that kind is missing or
    belongs to another version while this one does not. The largest prompt is the table's chunk, so that the batch has
    as many blocks of queries as in the table; every other prompt adds what it costs alone, less the launch.
    """
    if self.gpu.nearest not in _UNSPLIT:
        return {}
    rows: list[tuple[float, ...]] = []
    plans: list[tuple[Attention, int, list[int], int]] = []
    for op in dict.fromkeys(ops):
        ones = [_pages(kv - 1) for q, kv in op.seqs if q == 1]
        many = sorted(((q, kv - q) for q, kv in op.seqs if q > 1), reverse=True)
        if not (ones and many) and not self._prefers_mixed_table("attn_decode" if ones else "attn_prefill", op):
            continue
        heads = (op.heads_q, op.heads_kv, op.head_dim)
        largest = many[0] if many else (0, 0)
        whole = len(rows)
        rows.append((*heads, *largest, len(ones), _pages(sum(ones) / len(ones)) if ones else 0))
        rows += [(*heads, q, cached, 0, 0) for q, cached in many[1:]]
        alone = len(rows) if len(set(ones)) > 1 else -1
        if alone >= 0:  # one block of an unsplit decode reads all its keys: the longest bounds the batch
            rows.append((*heads, *largest, 1, max(ones)))
        plans.append((op, whole, list(range(whole + 1, whole + max(1, len(many)))), alone))
    if not rows:
        return {}
    family = VARIANTS["attn_mixed"]
    names = ("heads_q", "heads_kv", "head_dim", *family.axes, "model", "tp")
    answers = self._ask_once("attn_mixed", names, [(*row, "", 1.0) for row in rows])  # any model with these heads
    floor = 3.0 * self.gpu.floor_us
    out = {}
    for op, whole, others, alone in plans:
        estimate = _longest(answers[whole], answers[alone] if alone >= 0 else None)
        for i in others:
            more = answers[i]
            part = max(0.0, more.us - floor) / more.us if more.us else 0.0
            estimate = Estimate(
                estimate.us + part * more.us,
                estimate.lo_us + part * more.lo_us,
                estimate.hi_us + part * more.hi_us,
                max(estimate.source, more.source, INTERPOLATED),
            )
        out[op] = estimate
    return out


def _chunks(seqs: Sequence[tuple[int, int]]) -> list[tuple[float, float, float]]:
    """(q, kv, share) of prefills, grouped by work when there are many different ones."""
    counts: dict[tuple[int, int], int] = {}
    for seq in seqs:
        counts[seq] = counts.get(seq, 0) + 1
    if len(counts) <= _GROUPS:
        return [(q, kv, c / len(seqs)) for (q, kv), c in counts.items()]
    array = np.array(sorted(seqs, key=lambda s: float(attention_work(s[0], s[1], 0))), float)
    return [
        (float(part[:, 0].mean()), float(part[:, 1].mean()), len(part) / len(seqs))
        for part in np.array_split(array, _GROUPS)
    ]


def _blend(weighted: Sequence[tuple[Estimate, float]]) -> Estimate:
    if len(weighted) == 1:
        return weighted[0][0]
    us = sum(e.us * w for e, w in weighted)
    low = sum(e.lo_us * w for e, w in weighted)
    high = sum(e.hi_us * w for e, w in weighted)
    return Estimate(us, low, high, max(INTERPOLATED, max(e.source for e, _ in weighted)))


def _longest(batch: Estimate, alone: Estimate | None) -> Estimate:
    if alone is None or alone.us <= batch.us:
        return batch
    return Estimate(alone.us, alone.lo_us, alone.hi_us, max(INTERPOLATED, alone.source, batch.source))


_OVERLAP = 0.85  # of the shorter part's time that a mixed batch pays on top of the longer one


def _mixed(gpu: Gpu, decode: Estimate, prefill: Estimate) -> Estimate:
    """Decodes and prefills in one batch share launches and, in part, the SMs."""
    floor = 3.0 * gpu.floor_us
    short, long = sorted((decode, prefill), key=lambda e: e.us)
    extra = _OVERLAP * max(0.0, short.us - min(floor, 0.8 * short.us))
    us = long.us + extra
    spread = 0.5 * extra
    return Estimate(
        us,
        long.lo_us + max(0.0, extra - spread),
        long.hi_us + extra + spread,
        max(EXTRAPOLATED, decode.source, prefill.source),
    )


def _stream(self: LearnedPredictor, ops: Sequence[Stream]) -> list[Estimate]:
    """Norms, activations and rotary embeddings from this GPU's table of layers, scaled from the nearest row width."""
    widths = self._layer_widths()
    known: list[tuple[int, str, float, float]] = []
    for i, op in enumerate(ops):
        choices = widths.get(op.op, [])
        if choices and op.rows > 0 and op.bytes > 0:
            per_row = op.bytes / op.rows
            model, tp, size = min(choices, key=lambda w: abs(math.log(w[2] / per_row)))
            if 0.5 <= per_row / size <= 2.0:
                known.append((i, model, tp, per_row / size))
    out = _roofline_of_others(self, ops, [i for i, *_ in known])
    if not known:
        return out
    columns = {
        "model": _text([model for _, model, _, _ in known]),
        "op": _text([_LAYER_STREAMS[ops[i].op] for i, *_ in known]),
        "tp": _float([tp for _, _, tp, _ in known]),
        "num_tokens": _float([ops[i].rows for i, *_ in known]),
    }
    for (i, _, _, ratio), e in zip(known, self._ask("layer_ops_eager", columns)):
        floor = min(self.gpu.floor_us, e.us)
        e = _scaled(e, (floor + (e.us - floor) * ratio) / e.us)
        out[i] = e if ratio == 1.0 else e._replace(source=max(e.source, EXTRAPOLATED))
    return out


def _mla(self: LearnedPredictor, ops: Sequence[Mla]) -> list[Estimate]:
    rows: list[tuple[Any, ...]] = []
    plans = []
    for op in ops:
        ones = [_pages(kv) for q, kv in op.seqs if q == 1]
        many = [(q, kv) for q, kv in op.seqs if q > 1]
        plan = []
        for phase, groups, count in (
            ("decode", [(1.0, v, s) for v, s in _lengths(ones)] if ones else [], len(ones)),
            ("prefill", _chunks(many) if many else [], len(many)),
        ):
            for q, kv, share in groups:
                plan.append((len(rows), share))
                kv_dtype = "fp8" if op.kv_dtype.startswith("fp8") else "bfloat16"
                rows.append((self.framework, self.version, phase, "", "bfloat16", kv_dtype, op.heads, count, q, kv))
        plans.append(plan)
    names = (
        "framework",
        "version",
        "phase",
        "kernel",
        "q_dtype",
        "kv_dtype",
        "num_heads",
        "batch_size",
        "q_len",
        "kv_len",
    )
    answers = self._ask_once("mla_attention", names, rows)
    return [
        _blend([(answers[i], share) for i, share in plan]) if plan else self._roofline.predict([op])[0]
        for op, plan in zip(ops, plans)
    ]


_MOE_DTYPES = {"": "bfloat16", "float16": "bfloat16", "mxfp4": "w4a16_mxfp4", "w4a16": "int4_wo", "int8": "fp8"}


def _moe(self: LearnedPredictor, ops: Sequence[Moe]) -> list[Estimate]:
    columns: dict[str, list[Any]] = {
        "dtype": [_MOE_DTYPES.get(op.dtype, op.dtype) for op in ops],
        "distribution": [op.distribution for op in ops],
        "num_tokens": [op.tokens for op in ops],
        "hidden_size": [op.hidden for op in ops],
        "inter_size": [op.inter for op in ops],
        "topk": [max(1, op.topk) for op in ops],
        "num_experts": [op.experts for op in ops],
        "moe_tp_size": [op.tp for op in ops],
        "moe_ep_size": [op.ep for op in ops],
    }
    return self._ask_once("moe", tuple(columns), list(zip(*columns.values())))


def _collective(self: LearnedPredictor, ops: Sequence[Collective]) -> list[Estimate]:
    known = [
        i
        for i, op in enumerate(ops)
        if op.nodes <= 1
        and op.ranks > 1
        and op.bytes > 0
        and op.op in ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
    ]
    out = _roofline_of_others(self, ops, known)
    if not known:
        return out
    custom = f"{self.framework}_custom_ar"
    rows = [ops[i] for i in known]
    columns: dict[str, NDArray[Any]] = {
        "impl": _text(["nccl" if op.impl == "nccl" else custom for op in rows]),
        "version": _text([self.version] * len(rows)),
        "mode": _text(["nccl-tests" if op.impl == "nccl" else "graph" for op in rows]),
        "op": _text([op.op for op in rows]),
        "dtype": _text(["half"] * len(rows)),
        "num_gpus": _float([op.ranks for op in rows]),
        "bytes": _float([op.bytes for op in rows]),
    }
    for i, e in zip(known, self._ask("comm", columns)):
        out[i] = e
    return out


_HANDLERS: Mapping[type, Callable[[LearnedPredictor, Any], list[Estimate]]] = {
    Gemm: _gemm,
    Attention: _attention,
    Mla: _mla,
    Moe: _moe,
    Collective: _collective,
    Stream: _stream,
}
