"""Joins calls with the GPU work that they made: one row for every operator that ran.

A row is a call outside graphs, a node of a replayed graph, the launch of a graph (its duration: the whole less its
nodes where those were timed), or work that no wrapped call made ("unowned": CUPTI sees it and tells its kernel's name).
One call that ran several kernels (split-K) is one row, from the first start to the last end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati.recording.spool import FLAGS, METHODS, ProcessRecords
from revati_predictors.facts import NO_FACTS, ModelFacts
from revati_predictors.mapping import resolve
from revati_predictors.wire import COPY_KIND, DTYPE, KIND, OpRecord

__all__ = ["Pairing", "operator_columns", "pair", "step_columns"]

_KINDS = {number: name.lower() for name, number in KIND.items()}
_DTYPES = {number: name.lower() for name, number in DTYPE.items()}
_COPIES = {number: name.lower() for name, number in COPY_KIND.items()}
_PARAMS = 8
_CUPTI = 2

Array = NDArray[Any]


@dataclass
class Pairing:
    """How a recording came out. Operators that launch nothing (empty copies, empty products) are not counted."""

    operators: int = 0  # calls that ran work, graph launches among them
    captured: int = 0  # calls that went into a graph
    failed: int = 0
    timed: int = 0  # operators with a duration
    untimed: int = 0
    graph_launches: int = 0
    graph_launches_with_nodes: int = 0
    node_rows: int = 0
    nameless: int = 0  # graph nodes that no wrapped call made: known by CUPTI's description
    unowned: int = 0  # GPU work that no wrapped call made
    family_ns: dict[str, int] = field(default_factory=dict)
    family_count: dict[str, int] = field(default_factory=dict)

    def add(self, other: Pairing) -> None:
        for name, value in asdict(other).items():
            mine = getattr(self, name)
            if isinstance(value, dict):
                for key, amount in value.items():
                    mine[key] = mine.get(key, 0) + amount
            else:
                setattr(self, name, mine + value)


def _is_empty(op: OpRecord) -> bool:
    """Nothing is launched for it."""
    if op.kind in (KIND["COPY"], KIND["MEMSET"]):
        return op.p[0] == 0
    return op.kind == KIND["GEMM"] and 0 in (op.p[0], op.p[1], op.p[3])


def _families(process: ProcessRecords) -> dict[int, str]:
    facts = {number: ModelFacts.from_json(data) for number, data in process.models.items()}
    return {n: resolve(op, facts.get(op.model, NO_FACTS)).family.lower() for n, op in process.ops.items()}


def _grouped(works: Array) -> tuple[Array, Array, Array, Array]:
    """First record, start, end and number of records of each operator; `works` sorted by correlation and node."""
    if not len(works):
        nothing = np.empty(0, np.int64)
        return works, nothing, nothing, nothing
    change = (np.diff(works["correlation"]) != 0) | (np.diff(works["node"]) != 0)
    first = np.concatenate([[0], np.flatnonzero(change) + 1])
    counts = np.diff(np.concatenate([first, [len(works)]]))
    start, end = np.minimum.reduceat(works["begin_ns"], first), np.maximum.reduceat(works["end_ns"], first)
    return works[first], start, end, counts


def pair(process: ProcessRecords) -> tuple[Array, Pairing]:
    """Rows of a process as a structured array (see `_ROW`), and how the pairing came out."""
    calls = process.calls[np.argsort(process.calls["correlation"], kind="stable")]
    failed, captured = ((calls["flags"] & FLAGS[name]) != 0 for name in ("FAILED", "CAPTURED"))
    empty_ops = [n for n, op in process.ops.items() if _is_empty(op)]
    empty = np.isin(calls["op"], empty_ops)
    result = Pairing(failed=int(failed.sum()), captured=int((captured & ~failed & ~empty).sum()))
    ran = calls[~failed & ~captured & ~empty]
    works = _with_calls(process)
    owned = works[np.isin(works["correlation"], ran["correlation"])]
    nobodys = works[~np.isin(works["correlation"], calls["correlation"])]
    owned = owned[np.lexsort((owned["begin_ns"], owned["node"], owned["correlation"]))]
    head, start, end, count = _grouped(owned)
    in_graph = head["node"] != 0
    launch_rows = _rows_of_calls(process, ran, (head, start, end, count), in_graph, result)
    node_rows = _rows_of_nodes(ran, (head, start, end, count), in_graph)
    other_rows = _rows_of_unowned(nobodys)
    result.node_rows, result.unowned = len(node_rows), len(other_rows)
    return np.concatenate([launch_rows, node_rows, other_rows]), result


def _with_calls(process: ProcessRecords) -> Array:
    """The work records, those of CUPTI with the correlation of the call that their link names (0: none does)."""
    works: Array = process.works.copy()
    by_cupti = works["method"] == _CUPTI
    if by_cupti.any():
        links = process.links[np.argsort(process.links["value"], kind="stable")]
        at = np.searchsorted(links["value"], works["value"][by_cupti])
        found = (at < len(links)) & (np.append(links["value"], 0)[at] == works["value"][by_cupti])
        works["correlation"][by_cupti] = np.where(found, np.append(links["correlation"], 0)[at], 0)
    return works


_ROW = np.dtype(
    [
        ("op", "<u4"),
        ("seen", "<u4"),  # the operator as CUPTI describes it: its kernel's name
        ("call", "<i8"),  # index into the process's sorted calls that ran; -1 unowned
        ("site", "<i4"),
        ("correlation", "<u8"),
        ("step", "<u4"),
        ("stream", "<u8"),
        ("device", "<u2"),
        ("host_start_ns", "<i8"),
        ("host_ns", "<i8"),
        ("start_ns", "<i8"),  # 0: unknown
        ("duration_ns", "<i8"),  # -1: unknown
        ("records", "<i4"),
        ("method", "u1"),
        ("pageable", "?"),
        ("graph", "<u8"),
        ("node", "<u4"),
    ]
)


def _blank(n: int) -> Array:
    rows = np.zeros(n, _ROW)
    rows["duration_ns"] = rows["site"] = rows["call"] = -1
    return rows


def _from_calls(rows: Array, calls: Array, at: Array) -> None:
    picked = calls[at]
    for name in ("site", "correlation", "step", "stream", "device", "graph"):
        rows[name] = picked[name]
    rows["call"] = at
    rows["host_start_ns"], rows["host_ns"] = picked["begin_ns"], picked["end_ns"] - picked["begin_ns"]
    rows["pageable"] = (picked["flags"] & FLAGS["PAGEABLE"]) != 0


def _from_works(rows: Array, at: Array, head: Array, start: Array, end: Array, count: Array) -> None:
    rows["duration_ns"][at], rows["records"][at], rows["method"][at] = end - start, count, head["method"]
    rows["seen"][at] = np.where(head["method"] == _CUPTI, head["step"], 0)
    exact = head["method"] == _CUPTI
    rows["start_ns"][at] = np.where(exact, start, 0)
    rows["device"][at] = np.where(exact, head["device"], rows["device"][at])


def _rows_of_calls(
    process: ProcessRecords, ran: Array, grouped: tuple[Array, Array, Array, Array], in_graph: Array, result: Pairing
) -> Array:
    """One row for each call that ran; a graph launch keeps what its nodes do not explain."""
    head, start, end, count = grouped
    rows = _blank(len(ran))
    _from_calls(rows, ran, np.arange(len(ran)))
    rows["op"] = ran["op"]
    whole = ~in_graph
    at = np.searchsorted(ran["correlation"], head["correlation"][whole])
    _from_works(rows, at, head[whole], start[whole], end[whole], count[whole])
    is_graph = (ran["flags"] & FLAGS["GRAPH"]) != 0
    inside_ns, inside, first, last = _sums_by_call(ran, head, start, end, in_graph)
    by_span = is_graph & (inside > 0) & (rows["duration_ns"] < 0)  # CUPTI: the launch has no record of its own
    rows["duration_ns"] = np.where(by_span, last - first, rows["duration_ns"])
    rows["method"] = np.where(by_span, _CUPTI, rows["method"])
    rows["start_ns"] = np.where(by_span, first, rows["start_ns"])
    explained = is_graph & (inside > 0) & (rows["duration_ns"] >= 0)
    rows["duration_ns"] = np.where(explained, np.maximum(rows["duration_ns"] - inside_ns, 0), rows["duration_ns"])
    result.operators = len(ran)
    result.timed = int((rows["duration_ns"] >= 0).sum())
    result.untimed = len(ran) - result.timed
    result.graph_launches = int(is_graph.sum())
    result.graph_launches_with_nodes = int(explained.sum())
    result.nameless = int((head["op"][in_graph] == 0).sum())
    return rows


def _sums_by_call(
    ran: Array, head: Array, start: Array, end: Array, in_graph: Array
) -> tuple[Array, Array, Array, Array]:
    """For each call: nanoseconds in nodes, number of nodes, first start and last end of them."""
    at = np.searchsorted(ran["correlation"], head["correlation"][in_graph])
    sums, counts = np.zeros(len(ran), np.int64), np.zeros(len(ran), np.int64)
    first, last = np.full(len(ran), np.iinfo(np.int64).max), np.zeros(len(ran), np.int64)
    np.add.at(sums, at, end[in_graph] - start[in_graph])
    np.add.at(counts, at, 1)
    np.minimum.at(first, at, start[in_graph])
    np.maximum.at(last, at, end[in_graph])
    return sums, counts, first, last


def _rows_of_nodes(ran: Array, grouped: tuple[Array, Array, Array, Array], in_graph: Array) -> Array:
    head, start, end, count = (part[in_graph] for part in grouped)
    rows = _blank(len(head))
    if len(head):
        _from_calls(rows, ran, np.searchsorted(ran["correlation"], head["correlation"]))
        rows["op"] = np.where(head["op"] > 0, head["op"], head["step"])  # a node that no wrapped call made
        rows["node"], rows["host_ns"] = head["node"], 0
        _from_works(rows, np.arange(len(head)), head, start, end, count)
    return rows


def _rows_of_unowned(works: Array) -> Array:
    rows = _blank(len(works))
    rows["op"] = rows["seen"] = works["step"]
    rows["stream"], rows["device"] = works["stream"], works["device"]
    rows["start_ns"], rows["duration_ns"] = works["begin_ns"], works["end_ns"] - works["begin_ns"]
    rows["records"], rows["method"] = 1, works["method"]
    return rows


def operator_columns(
    process: ProcessRecords, rows: Array, sites: Sequence[str], result: Pairing
) -> dict[str, list[Any]]:
    """Columns of the Parquet table, and the sums by family into `result`."""
    families = _families(process)
    blank = OpRecord(0, p=(0,) * _PARAMS)
    ops = [process.ops.get(n, blank) for n in rows["op"].tolist()]
    family = [families.get(n, "other") for n in rows["op"].tolist()]
    for name, ns in zip(family, rows["duration_ns"].tolist()):
        if ns >= 0:
            result.family_ns[name] = result.family_ns.get(name, 0) + ns
            result.family_count[name] = result.family_count.get(name, 0) + 1
    steps = [process.steps.get(n) for n in rows["step"].tolist()]
    names = [*sites, ""]
    durations = rows["duration_ns"].tolist()
    return {
        "pid": [process.pid] * len(rows),
        "call": [names[s] if 0 <= s < len(sites) else "" for s in rows["site"].tolist()],
        "family": family,
        "kind": [_KINDS[op.kind] for op in ops],
        "name": [_COPIES.get(op.p[1], "") if op.kind == KIND["COPY"] else op.name for op in ops],
        "kernel": [process.ops[n].name if n in process.ops else "" for n in rows["seen"].tolist()],
        "dtype": [_DTYPES.get(op.dtype, "") for op in ops],
        "dtype_w": [_DTYPES.get(op.dtype_w, "") for op in ops],
        "dtype_o": [_DTYPES.get(op.dtype_o, "") for op in ops],
        "p": [list(op.p[:_PARAMS]) for op in ops],
        "pageable": rows["pageable"].tolist(),
        "duration_ns": [ns if ns >= 0 else None for ns in durations],
        "method": [METHODS[m] for m in rows["method"].tolist()],
        "records": rows["records"].tolist(),
        "start_ns": [ns or None for ns in rows["start_ns"].tolist()],
        "device": rows["device"].tolist(),
        "stream": rows["stream"].tolist(),
        "correlation": rows["correlation"].tolist(),
        "graph": [g or None for g in rows["graph"].tolist()],
        "node": [n or None for n in rows["node"].tolist()],
        "step": rows["step"].tolist(),
        "nseq": [len(s.seqs) if s else 0 for s in steps],
        "tokens": [sum(q for q, _ in s.seqs) if s else 0 for s in steps],
        "padded": [s.padded if s else 0 for s in steps],
        "host_start_ns": rows["host_start_ns"].tolist(),
        "host_ns": rows["host_ns"].tolist(),
    }


def step_columns(process: ProcessRecords, rows: Array) -> dict[str, list[Any]]:
    """One row for each announced batch: lengths, GPU time of its operators, host time in its API calls."""
    numbers = sorted(process.steps)
    gpu_ns = dict.fromkeys(numbers, 0)
    host_ns, calls = dict.fromkeys(numbers, 0), dict.fromkeys(numbers, 0)
    for step, ns, host, node in zip(*(rows[c].tolist() for c in ("step", "duration_ns", "host_ns", "node"))):
        if step in gpu_ns:
            gpu_ns[step] += max(ns, 0)
            host_ns[step] += host
            calls[step] += node == 0
    begins = [process.steps[n].begin_ns for n in numbers]
    periods: list[int | None] = [later - begin for begin, later in pairwise(begins)]
    return {
        "pid": [process.pid] * len(numbers),
        "step": numbers,
        "begin_ns": begins,
        "period_ns": periods + [None] * min(1, len(begins)),
        "gpu_ns": [gpu_ns[n] for n in numbers],
        "calls": [calls[n] for n in numbers],
        "host_ns": [host_ns[n] for n in numbers],
        "padded": [process.steps[n].padded for n in numbers],
        "q_lens": [[q for q, _ in process.steps[n].seqs] for n in numbers],
        "kv_lens": [[kv for _, kv in process.steps[n].seqs] for n in numbers],
    }
