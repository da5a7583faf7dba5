"""From the recorder's folder to Parquet: OUT.parquet with the operators, OUT.steps.parquet with the batches.

What belongs to the whole recording (conditions, models, host time by API call, pairing) is JSON in the metadata of both
files, under `revati.record`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from revati._errors import HostError, UsageError
from revati.recording.spool import ProcessRecords, read_call_times, read_processes, site_names
from revati.recording.table import Pairing, operator_columns, pair, step_columns

__all__ = ["METADATA", "need_pyarrow", "read_metadata", "steps_path", "write_recording"]

METADATA = b"revati.record"
SCHEMA = "revati-record-1"


def need_pyarrow() -> Any:
    """pyarrow with its Parquet part. Raises HostError without it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise HostError("recordings are Parquet and need pyarrow: pip install 'revati[calibrate]'") from None
    return pyarrow


def steps_path(out: Path) -> Path:
    """The file of the batches beside the file of the operators."""
    return out.with_name(f"{out.stem}.steps{out.suffix}")


def _schemas(pa: Any) -> tuple[Any, Any]:
    i64, text = pa.int64(), pa.dictionary(pa.int32(), pa.string())
    texts = ("call", "family", "kind", "name", "dtype", "dtype_w", "dtype_o", "method", "kernel")
    lists = ("p", "q_lens", "kv_lens")
    special = {**dict.fromkeys(texts, text), **dict.fromkeys(lists, pa.list_(i64)), "pageable": pa.bool_()}
    special |= {"stream": pa.uint64(), "correlation": pa.uint64()}
    blank = ProcessRecords(0, *(3 * [_no_records()]))
    rows, _ = pair(blank)
    names = (operator_columns(blank, rows, [], Pairing()), step_columns(blank, rows))
    operators, steps = (pa.schema([(name, special.get(name, i64)) for name in columns]) for columns in names)
    return operators, steps


def _no_records() -> Any:
    import numpy

    from revati.recording.spool import RECORD

    return numpy.empty(0, RECORD)


def write_recording(folder: Path, out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes both files and returns the metadata. `facts`: conditions of the recording (session_facts).

    The files appear under their names when they are complete. Raises HostError without pyarrow, UsageError when
    OUT cannot be written.
    """
    pa = need_pyarrow()
    sites, total = site_names(folder), Pairing()
    operators, steps = _schemas(pa)
    processes: list[dict[str, Any]] = []
    targets = (out, steps_path(out))
    parts = [path.with_name(f".{path.name}.part") for path in targets]
    try:
        writers = [pa.parquet.ParquetWriter(part, schema) for part, schema in zip(parts, (operators, steps))]
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    for process in read_processes(folder):
        rows, result = pair(process)
        rows = rows[rows["start_ns"].argsort(kind="stable")] if process.method == "cupti" else rows
        for writer, schema, columns in zip(
            writers, (operators, steps), (operator_columns(process, rows, sites, result), step_columns(process, rows))
        ):
            writer.write_table(pa.table(columns, schema=schema))
        total.add(result)
        processes.append(
            {"pid": process.pid, "method": process.method, "reason": process.reason, "models": process.models}
        )
    metadata = {
        "schema": SCHEMA,
        "session": facts,
        "processes": processes,
        "pairing": dataclasses.asdict(total),
        "host_calls": {name: dataclasses.asdict(times) for name, times in read_call_times(folder).items()},
    }
    for writer in writers:
        writer.add_key_value_metadata({METADATA: json.dumps(metadata).encode()})
        writer.close()
    for part, target in zip(parts, targets):
        part.replace(target)
    return metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """What belongs to a whole recording. Raises UsageError if the file is none."""
    pa = need_pyarrow()
    try:
        found = pa.parquet.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from None
    if METADATA not in found:
        raise UsageError(f"{path} was not written by 'revati record'")
    return dict(json.loads(found[METADATA]))
