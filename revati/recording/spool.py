"""Reads the folder that the recorder writes: the mirror of csrc/include/rvt_record.h (a test compares them).

A file is whole whenever its process died: its header counts the valid records.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati._errors import RunError
from revati_predictors.wire import OP, OpRecord

__all__ = ["FLAGS", "METHODS", "RECORD", "TYPES", "CallTimes", "ProcessRecords", "read_call_times", "read_processes"]

VERSION = 1
MAGIC = b"RVTREC\0\0"
HEADER = struct.Struct("<8sIIIIQ32x")
TYPES = {"CALL": 1, "WORK": 2, "OP": 3, "STEP": 4, "MODEL": 5, "GRAPH": 6, "START": 7, "LINK": 8, "TEXT": 15}
METHODS = {0: "none", 1: "event", 2: "cupti"}
FLAGS = {"FAILED": 1, "CAPTURED": 2, "GRAPH": 4, "UNTIMED": 8, "PAGEABLE": 16}
RECORD = np.dtype(
    [
        ("type", "u1"),
        ("method", "u1"),
        ("site", "<u2"),
        ("op", "<u4"),
        ("correlation", "<u8"),
        ("begin_ns", "<i8"),
        ("end_ns", "<i8"),
        ("stream", "<u8"),
        ("graph", "<u8"),
        ("step", "<u4"),
        ("value", "<u4"),
        ("flags", "<u2"),
        ("device", "<u2"),
        ("node", "<u4"),
    ]
)
HIST_BUCKETS, HIST_FIRST = 96, 5
HISTOGRAM = np.dtype([("calls", "<u8"), ("total_ns", "<u8"), ("bucket", "<u4", (HIST_BUCKETS,))])

Records = NDArray[Any]


@dataclass
class Step:
    """One batch: when it was announced (host clock), tokens after padding, (q_len, kv_len) of its sequences."""

    begin_ns: int
    padded: int
    seqs: tuple[tuple[int, int], ...]


@dataclass
class ProcessRecords:
    """All that one process left. `calls`, `works` and `links` are arrays of RECORD; numbers are the process's own."""

    pid: int
    calls: Records
    works: Records
    links: Records
    ops: dict[int, OpRecord] = field(default_factory=dict)
    steps: dict[int, Step] = field(default_factory=dict)
    models: dict[int, dict[str, Any]] = field(default_factory=dict)
    graphs: dict[int, tuple[int, ...]] = field(default_factory=dict)
    method: str = "none"
    reason: str = ""


@dataclass
class CallTimes:
    """Host time of one API call over the recording, nanoseconds."""

    calls: int
    total_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int


def _read_segment(path: Path) -> Records:
    data = path.read_bytes()
    if len(data) < HEADER.size:
        return np.empty(0, RECORD)
    magic, version, _, _, _, count = HEADER.unpack_from(data)
    if magic == bytes(8):  # killed between making the file and its header
        return np.empty(0, RECORD)
    if magic != MAGIC or version != VERSION:
        raise RunError(f"{path} was not written by this version of the recorder (version {version}, not {VERSION})")
    whole = (len(data) - HEADER.size) // RECORD.itemsize
    return np.frombuffer(data, RECORD, count=min(count, whole), offset=HEADER.size)


def _texts(records: Records, kind: int) -> Iterator[tuple[Any, bytes]]:
    """Every record of a type with the text behind it."""
    raw = records.view(np.uint8).reshape(len(records), RECORD.itemsize) if len(records) else records
    for at in np.flatnonzero(records["type"] == kind):
        end = at + 1
        while end < len(records) and records["type"][end] == TYPES["TEXT"]:
            end += 1
        yield records[at], b"".join(raw[i, 2 : 2 + int(raw[i, 1])].tobytes() for i in range(at + 1, end))


def _op_of(text: bytes) -> OpRecord:
    head = OP.unpack_from(text)
    return OpRecord(
        head[0], head[1], head[2], head[3], head[4], head[5], 0, text[OP.size :].decode("utf-8", "replace"), head[10:]
    )


def _add(process: ProcessRecords, records: Records) -> None:
    for head, text in _texts(records, TYPES["OP"]):
        process.ops[int(head["op"])] = _op_of(text)
    for head, text in _texts(records, TYPES["STEP"]):
        flat = struct.unpack(f"<{len(text) // 4}I", text)
        process.steps[int(head["step"])] = Step(
            int(head["begin_ns"]), int(head["value"]), tuple(zip(flat[::2], flat[1::2]))
        )
    for head, text in _texts(records, TYPES["MODEL"]):
        process.models[int(head["op"])] = json.loads(text)
    for head, text in _texts(records, TYPES["GRAPH"]):
        process.graphs[int(head["graph"])] = struct.unpack(f"<{len(text) // 4}I", text)
    for head, text in _texts(records, TYPES["START"]):
        process.method, process.reason = METHODS[int(head["method"])], text.decode("utf-8", "replace")


def read_processes(folder: Path) -> Iterator[ProcessRecords]:
    """The processes of a recording that did anything on a GPU, one at a time. Raises RunError for foreign files."""
    files: defaultdict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.seg"), key=lambda p: [int(n) for n in p.stem.split("-")]):
        files[int(path.stem.split("-")[0])].append(path)
    for pid, paths in files.items():
        segments = [_read_segment(path) for path in paths]
        nothing = np.empty(0, RECORD)
        process = ProcessRecords(pid, nothing, nothing, nothing)
        for segment in segments:
            _add(process, segment)
        process.calls, process.works, process.links = (
            np.concatenate([nothing, *(s[s["type"] == TYPES[kind]] for s in segments)])
            for kind in ("CALL", "WORK", "LINK")
        )
        yield process


def site_names(folder: Path) -> list[str]:
    """Names of the API calls by their number."""
    path = folder / "sites"
    return path.read_text(encoding="ascii").split() if path.exists() else []


def _bucket_ns(bucket: int) -> int:
    """The middle of a bucket: four of equal width in each octave."""
    octave, quarter = divmod(bucket, 4)
    return int((1 << (HIST_FIRST + octave)) * (1 + (quarter + 0.5) / 4))


def _percentile(buckets: NDArray[Any], share: float) -> int:
    reached = np.searchsorted(np.cumsum(buckets), share * buckets.sum())
    return _bucket_ns(int(min(reached, HIST_BUCKETS - 1)))


def read_call_times(folder: Path) -> dict[str, CallTimes]:
    """Host time by API call, over all threads and processes."""
    total = np.zeros(512, HISTOGRAM)
    for path in folder.glob("*.hist"):
        one = np.fromfile(path, HISTOGRAM)
        for name in ("calls", "total_ns", "bucket"):
            total[name][: len(one)] += one[name]
    times: dict[str, CallTimes] = {}
    for name, row in zip(site_names(folder), total):
        if row["calls"]:
            percentiles = (_percentile(row["bucket"], share) for share in (0.5, 0.9, 0.99))
            times[name] = CallTimes(int(row["calls"]), int(row["total_ns"]), *percentiles)
    return dict(sorted(times.items(), key=lambda item: -item[1].total_ns))
