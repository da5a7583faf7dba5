"""From result files of measuring runs to training tables: one CSV per family with the columns of the published kernel
tables.

Rows of a table come from one GPU, one driver and one clock setting: mixing two of them is an error, because a model
trained on both would describe neither. Dry and emulated rows, and rows measured while the card was slowed down by heat
or was idle, are left out and counted.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revati._errors import UsageError
from revati.calibration.cells import COLUMNS
from revati.calibration.rows import read_lines

__all__ = ["GPU_KEYS", "Measured", "load_results", "write_tables"]

# NVML's product name -> key of the kernel tables.
GPU_KEYS = {
    "NVIDIA H200": "h200_sxm",
    "NVIDIA H100 80GB HBM3": "h100_sxm",
    "NVIDIA A100-SXM4-80GB": "a100_sxm",
    "NVIDIA L40S": "l40s",
    "NVIDIA B200": "b200_sxm",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx_pro_6000_server",
}
EXTRA_COLUMNS = ("l2", "split", "method", "min_us", "p90_us", "sm_mhz", "mem_mhz", "temp_c", "power_w")

_THERMAL = (
    0x8 | 0x20 | 0x40 | 0x80
)  # NVML clocks event reasons: hardware slowdown, software and hardware thermal, power brake


@dataclass
class Measured:
    """Rows that belong together. `gpu` is the key of the kernel tables, `conditions` what all rows share."""

    gpu: str
    conditions: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def keys(self) -> set[str]:
        return {str(r["key"]) for r in self.rows}


def _sweep_files(sources: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        found = [source] if source.is_file() else sorted(source.rglob("sweep.jsonl"))
        if not found:
            raise UsageError(
                f"{source}: no sweep.jsonl in it; it should come from `revati calibrate run` or scripts/gpu/session"
            )
        files += found
    return files


def load_results(sources: Sequence[Path], gpu: str = "") -> Measured:
    """Reads sweeps from files or folders, and recordings from .parquet files. Of a cell in both the sweep's row counts.

    Raises UsageError when they hold two GPUs, drivers or clock settings, or no real row.
    """
    sessions: dict[str, dict[str, Any]] = {}
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    left_out: Counter[str] = Counter()
    recordings = [source for source in sources if source.suffix == ".parquet"]
    for path in recordings:
        from revati.recording.training import recorded_rows

        session, recorded, unfit = recorded_rows(path)
        sessions[str(session["session"])] = session
        left_out.update(unfit)
        if session.get("emulated"):
            left_out["emulated"] += len(recorded)
        else:
            latest.update({(str(row["key"]), str(row["framework"])): row for row in recorded})
    for path in _sweep_files(source for source in sources if source not in recordings):
        for record in read_lines(path):
            if record.get("kind") == "session":
                sessions[str(record["session"])] = record
            elif record.get("kind") == "row":
                if record.get("dry"):
                    left_out["dry run"] += 1
                elif sessions.get(str(record.get("session")), {}).get("emulated"):
                    left_out["emulated"] += 1
                elif str(record.get("session")) not in sessions:
                    left_out["no session line"] += 1
                else:
                    latest[str(record["key"]), str(record.get("framework"))] = record
    used = {str(r["session"]) for r in latest.values()}
    conditions = _one_condition({s: sessions[s] for s in used})
    rows = []
    for row in latest.values():
        reason = _unfit(row, conditions)
        if reason:
            left_out[reason] += 1
        else:
            rows.append(row)
    if not rows:
        raise UsageError(f"no usable measured row (left out: {dict(left_out)})")
    name = str(conditions["gpu"]["name"])
    key = gpu or GPU_KEYS.get(name, name.lower().replace("nvidia ", "").replace(" ", "_"))
    return Measured(key, conditions, rows, left_out)


def _one_condition(sessions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all sessions share. Raises UsageError naming the first difference."""
    if not sessions:
        raise UsageError("no row measured on a card: only dry or emulated runs, or empty files")
    ordered = sorted(sessions.values(), key=lambda s: str(s["time"]))
    first = ordered[0]
    for other in ordered[1:]:
        for what, of in (("GPUs", "uuid"), ("GPU models", "name"), ("drivers", "driver"), ("clock settings", "clocks")):
            a, b = first["gpu"].get(of), other["gpu"].get(of)
            if a != b:
                raise UsageError(
                    f"the results mix two {what}: {a} ({first['time']}) and {b} ({other['time']}); keep them apart"
                )
    versions: dict[str, str] = {}
    for session in ordered:  # vLLM may have come only after the first sessions
        versions.update(session["versions"])
    return {
        "gpu": first["gpu"],
        "versions": versions,
        "first": first["time"],
        "last": ordered[-1]["time"],
        "commands": sorted({str(s["command"]) for s in ordered}),
    }


def _unfit(row: dict[str, Any], conditions: dict[str, Any]) -> str:
    reasons, sm = row.get("reasons"), row.get("sm_mhz")
    top = conditions["gpu"].get("clocks", {}).get("max_sm_mhz")
    if isinstance(reasons, int) and reasons & _THERMAL:
        return "slowed down by heat or power brake"
    if sm and top and sm < 0.5 * top:
        return "clocks near idle"
    lat = row.get("lat_us")
    if not isinstance(lat, (int, float)) or not lat > 0:
        return "no duration"
    return ""


def write_tables(measured: Measured, out: Path, kind: str = "csv") -> dict[str, int]:
    """Writes OUT/<table>/<gpu>.<framework>-<version>.csv.gz (or .parquet), manifest.json and conditions.json.

    Tables named like a family of the published tables are for training. Beside them: `held_out/` (shapes that training
    must not see), `<family>_warm` (weights in L2), `attn_ragged` (decode batches of unequal lengths), `layer_ops_more`
    (operators that the published tables do not have). The same rows give the same bytes. Returns rows by file; raises
    UsageError for kind "parquet" without pyarrow.
    """
    framework, version = _framework(measured)
    tables: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in measured.rows:
        tables[_table_of(row)].append(row)
    written: dict[str, int] = {}
    for table, rows in sorted(tables.items()):
        family = str(rows[0]["family"])
        columns = ["gpu", "framework", "version", "kernel", *COLUMNS[family], *_CONSTANT.get(family, {}), "lat_us"]
        columns += [*EXTRA_COLUMNS, *(["host_us", "whole_us"] if family == "graph" else [])]
        fixed = {"gpu": measured.gpu, "framework": framework, "version": version, **_CONSTANT.get(family, {})}
        rows.sort(key=lambda r: (str(r["key"]), str(r["kernel"])))
        values = [[_value(c, fixed[c] if c in fixed else r.get(c, "")) for c in columns] for r in rows]
        path = out / table / f"{measured.gpu}.{framework}-{version}{'.csv.gz' if kind == 'csv' else '.parquet'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "csv":
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([columns, *values])
            path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
        else:
            _write_parquet(path, columns, values)
        written[str(path.relative_to(out))] = len(rows)
    manifest = [
        {
            "file": name,
            "rows": rows,
            "license": "Apache-2.0",
            "source": f"measured by revati calibrate on {measured.gpu}",
        }
        for name, rows in written.items()
    ]
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    conditions = {"gpu": measured.gpu, "conditions": measured.conditions, "left_out": dict(measured.left_out)}
    (out / "conditions.json").write_text(json.dumps(conditions, indent=1, sort_keys=True) + "\n")
    return written


# What the published tables say in columns that a sweep does not vary.
_CONSTANT: dict[str, dict[str, Any]] = {"layer_ops": {"source": "revati", "gated": 1}}
_PUBLISHED_OPS = {"emb", "input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act", "add"}
_PUBLISHED_NAMES = {
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B-Instruct-2507",
}


def _framework(measured: Measured) -> tuple[str, str]:
    """Under which framework and version the rows are filed: vLLM's if it was there, since its kernels were measured."""
    versions = measured.conditions["versions"]
    return ("vllm", versions["vllm"]) if "vllm" in versions else ("torch", str(versions.get("torch", "")).split("+")[0])


def _table_of(row: dict[str, Any]) -> str:
    family = str(row["family"])
    table = family
    if family in ("gemm", "moe", "attn_decode", "attn_prefill") and row.get("l2") == "warm":
        table = f"{family}_warm"
    elif family == "attn_mixed" and int(row.get("spread", 0)):
        table = "attn_ragged"
    elif family == "layer_ops" and row.get("op") not in _PUBLISHED_OPS:
        table = "layer_ops_more"
    return f"held_out/{table}" if row.get("split") == "test" else table


def _value(column: str, value: Any) -> Any:
    return _PUBLISHED_NAMES.get(value, value) if column == "model" else value


def _write_parquet(path: Path, columns: list[str], values: list[list[Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "writing Parquet needs pyarrow: pip install 'revati[calibrate]', or use --format csv"
        ) from None
    table = {c: [None if row[i] == "" else row[i] for row in values] for i, c in enumerate(columns)}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
