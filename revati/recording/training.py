"""Recorded operators as rows of a calibration, and recorded host time as a host profile.

Only what means the same as in a sweep becomes a row: matrix products and copies, timed by CUPTI on a real card. One row
for each shape, with the median. A recorded attention launch is a part of what a sweep calls attention (which holds the
KV write, on a batch of equal lengths), and a graph's launch is not a graph of empty kernels: these are left out and
counted.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from revati._errors import UsageError
from revati.calibration.cells import Cell
from revati.recording.parquet import need_pyarrow, read_metadata

__all__ = ["recorded_host_calls", "recorded_rows"]

_GEMM_DTYPES = {"bf16": "bfloat16", "f8e4m3": "fp8"}
_COLUMNS = ["family", "kind", "name", "kernel", "dtype", "p", "pageable", "duration_ns", "method"]


def _cell(row: dict[str, Any]) -> Cell | str:
    """The sweep's cell that a recorded operator is, or why it is none."""
    p = row["p"]
    if row["kind"] == "gemm":
        if row["dtype"] not in _GEMM_DTYPES or p[3] != 1:
            return "batched products and other types"
        return Cell("gemm", (_GEMM_DTYPES[row["dtype"]], p[0], p[1], p[2]), "cold", 1)
    if row["kind"] == "memset":
        return Cell("copy", ("memset", "device", p[0]), "warm", 1)
    if row["kind"] == "copy" and row["name"] in ("h2d", "d2h", "d2d"):
        memory = "device" if row["name"] == "d2d" else "pageable" if row["pageable"] else "pinned"
        return Cell("copy", (row["name"], memory, p[0]), "warm", 1)
    return f"recorded {row['family']}"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    pa = need_pyarrow()
    for batch in pa.parquet.ParquetFile(path).iter_batches(columns=_COLUMNS):
        yield from batch.to_pylist()


def recorded_rows(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], Counter[str]]:
    """(session, rows, reasons with counts) of a recording, in the form of a sweep's result lines (calibration.rows).

    Raises UsageError if the file is no recording.
    """
    facts = read_metadata(path)["session"]
    session = {**facts, "kind": "session", "session": f"recording {path.name} {facts.get('time', '')}"}
    samples: defaultdict[Cell, list[float]] = defaultdict(list)
    kernels: dict[Cell, str] = {}
    left_out: Counter[str] = Counter()
    for row in _rows(path):
        cell = _cell(row)
        if isinstance(cell, str):
            left_out[cell] += 1
        elif row["method"] != "cupti" or not row["duration_ns"]:
            left_out["timed by events"] += 1
        else:
            samples[cell].append(row["duration_ns"] / 1000)
            kernels.setdefault(cell, row["kernel"])
    rows = [
        {
            "kind": "row",
            "key": cell.key,
            "session": session["session"],
            "family": cell.family,
            **cell.as_dict(),
            "l2": cell.l2,
            "split": cell.split,
            "framework": "torch",  # as the sweep files products and copies
            "kernel": kernels[cell],
            "lat_us": round(statistics.median(values), 4),
            "min_us": round(min(values), 4),
            "p90_us": round(sorted(values)[int(0.9 * (len(values) - 1))], 4),
            "method": "recorded",
        }
        for cell, values in samples.items()
    ]
    return session, rows, left_out


# Cost name of the host profile -> API call of a recording.
_CALLS = {
    "launch_ns": "cudaLaunchKernel",
    "graph_launch_ns": "cudaGraphLaunch",
    "copy_ns": "cudaMemcpyAsync",
    "event_ns": "cudaEventRecord",
    "malloc_ns": "cudaMalloc",
}


def recorded_host_calls(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Median host nanoseconds by cost name, and the session. Raises UsageError for a recording on a virtual GPU."""
    metadata = read_metadata(path)
    if metadata["session"].get("emulated"):
        raise UsageError(f"{path} was recorded on a virtual GPU, whose host time is not a card's")
    calls = metadata["host_calls"]
    # Compiled host code launches through either name.
    launches = max(("cudaLaunchKernel", "__cudaLaunchKernel"), key=lambda name: calls.get(name, {}).get("calls", 0))
    names = {**_CALLS, "launch_ns": launches}
    return {cost: int(calls[call]["p50_ns"]) for cost, call in names.items() if call in calls}, metadata["session"]
