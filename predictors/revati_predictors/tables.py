"""Reading tables of operators: CSV, plain or gzip, with errors that name the file, the line and the column."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors.families import FAMILIES, VARIANTS, Family, variant_of

__all__ = [
    "MODEL_HEADS",
    "MODEL_WIDTHS",
    "Table",
    "TableError",
    "layer_products",
    "layer_widths",
    "read_table",
    "stream_bytes",
    "typed_columns",
]


class TableError(ValueError):
    """The table cannot be used; the message names file, line and column."""


# Attention heads of the models in the mixed-batch tables, which give only the model's name.
MODEL_HEADS: Mapping[str, tuple[int, int, int]] = {
    "meta-llama/llama-3.1-8b": (32, 8, 128),
    "qwen/qwen3-32b": (64, 8, 128),
    "qwen/qwen3-30b-a3b-instruct-2507": (32, 4, 128),
    "meta-llama/llama-3.1-70b": (64, 8, 128),
    "qwen/qwen3-8b": (32, 8, 128),
    "mistralai/mixtral-8x7b-v0.1": (32, 8, 128),
    "meta-llama/llama-2-7b": (32, 32, 128),
    "qwen/qwen3-14b": (40, 8, 128),
    "qwen/qwen3-4b": (32, 8, 128),
}

# (hidden, intermediate) of the dense models among them, for tables of their layers.
MODEL_WIDTHS: Mapping[str, tuple[int, int]] = {
    "meta-llama/llama-3.1-8b": (4096, 14336),
    "qwen/qwen3-32b": (5120, 25600),
    "meta-llama/llama-3.1-70b": (8192, 28672),
    "qwen/qwen3-8b": (4096, 12288),
    "qwen/qwen3-14b": (5120, 17408),
}

KNOWN_DTYPES = frozenset(
    {
        "bfloat16",
        "float16",
        "half",
        "float32",
        "fp8",
        "fp8_block",
        "int8",
        "nvfp4",
        "int4_wo",
        "w4a16_mxfp4",
        "w4a8_mxfp4_mxfp8",
    }
)

# (least, most) that a column can mean; whole numbers all. Beyond it somebody used another unit.
_LIMITS: Mapping[str, tuple[float, float]] = {
    "m": (1, 1e8),
    "n": (1, 1e8),
    "k": (1, 1e8),
    "batch_size": (1, 1e6),
    "q_len": (1, 1e8),
    "kv_len": (1, 1e9),
    "num_heads": (1, 4096),
    "num_kv_heads": (1, 4096),
    "head_dim": (8, 2048),
    "window_size": (0, 1e9),
    "num_tokens": (1, 1e8),
    "hidden_size": (16, 1e6),
    "inter_size": (8, 1e7),
    "topk": (1, 1024),
    "num_experts": (1, 65536),
    "moe_tp_size": (1, 4096),
    "moe_ep_size": (1, 4096),
    "bytes": (1, 1e13),
    "num_gpus": (1, 100000),
    "devices_per_node": (1, 1024),
    "sms": (0, 1024),
    "tp": (1, 4096),
    "ep": (1, 4096),
    "prefill_chunk": (0, 1e8),
    "kv_prefill": (0, 1e9),
    "n_decode": (0, 1e6),
    "kv_decode": (0, 1e9),
    "n_head": (1, 4096),
    "n_kv_head": (0, 4096),
    "hidden": (16, 1e6),
    "inter": (0, 1e7),
    "vocab": (0, 1e8),
    "gated": (0, 1),
    "experts_per_device": (1, 65536),
    "tp_size": (1, 4096),
}


@dataclass
class Table:
    """The text of a table. rows[i] stands on line lines[i] of the file."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """The text of one column."""
        at = self.header.index(name)
        return [row[at] for row in self.rows]


def read_table(path: str | Path) -> Table:
    """Read a CSV file, .gz or not. Raises TableError for what cannot be read or is ragged."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TableError(f"{path}: cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise TableError(f"{path}: is not text in UTF-8") from None
    reader = csv.reader(text.splitlines())
    rows, lines = [], []
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise TableError(f"{path}, line 1: the header is missing")
    if len(set(header)) != len(header):
        raise TableError(f"{path}, line 1: a column name occurs twice")
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise TableError(f"{path}, line {reader.line_num}: {len(row)} fields, the header has {len(header)}")
        rows.append(row)
        lines.append(reader.line_num)
    return Table(path, header, rows, lines)


def _number(table: Table, row: int, name: str, text: str, exact: bool = True) -> float:
    where = f"{table.path}, line {table.lines[row]}, column {name}"
    try:
        value = float(text)
    except ValueError:
        raise TableError(f"{where}: '{text}' is not a number") from None
    least, most = _LIMITS.get(name, (0, 1e15))
    if not math.isfinite(value) or not least <= value <= most:
        raise TableError(f"{where}: {text} cannot be right; expected {least:g} to {most:g}")
    if exact and value != int(value):
        raise TableError(f"{where}: {text} must be a whole number (elements, tokens or bytes)")
    return value


def choose_variant(table: Table, family: str) -> Family:
    """The kind of table of this family. Raises TableError naming what is missing."""
    if family not in FAMILIES:
        raise TableError(f"unknown family '{family}'; known: {', '.join(FAMILIES)}")
    found = variant_of(family, table.header)
    if found is None:
        kinds = [v for v in VARIANTS.values() if v.family == family]
        best = min(kinds, key=lambda v: len(set(v.needed) - set(table.header)))
        missing = [c for c in best.needed if c not in table.header]
        raise TableError(
            f"{table.path}, line 1, column {missing[0]}: the column is missing "
            f"(a table of {family} needs {', '.join(best.needed)})"
        )
    return found


def typed_columns(table: Table, family: Family, times: bool = False) -> dict[str, NDArray[Any]]:
    """The family's columns as arrays (numbers float64, text object), checked. `times`: also `us`, the measured time."""
    out: dict[str, NDArray[Any]] = {}
    for name in family.needed:
        text = table.column(name)
        if name in family.text:
            values = [t.strip() for t in text]
            if name in ("dtype", "q_dtype", "kv_dtype") and family.checked_dtypes:
                for row, value in enumerate(values):
                    if value not in KNOWN_DTYPES:
                        raise TableError(
                            f"{table.path}, line {table.lines[row]}, column {name}: unknown data type "
                            f"'{value}'; known: {', '.join(sorted(KNOWN_DTYPES))}"
                        )
            out[name] = np.array(values, dtype=object)
        else:
            out[name] = np.array([_number(table, row, name, t) for row, t in enumerate(text)], float)
    for name in family.time_columns if times else ():
        values_us = [_number(table, row, name, t, exact=False) for row, t in enumerate(table.column(name))]
        out["us"] = out.get("us", np.zeros(len(values_us))) + np.array(values_us)
    if family.name == "attn_mixed":
        _add_heads(table, out)
    return out


def layer_widths(model: str, tp: float) -> dict[str, tuple[float, float]] | None:
    """(n, k) of the linear layers of one rank by the layer's name in vLLM; None for a model that is not known."""
    heads, widths = MODEL_HEADS.get(model.lower()), MODEL_WIDTHS.get(model.lower())
    if heads is None or widths is None:
        return None
    hidden, intermediate = widths
    q, kv, width = heads[0] / tp, max(1.0, heads[1] / tp), heads[2]
    return {
        "qkv_proj": ((q + 2 * kv) * width, hidden),
        "o_proj": (hidden, q * width),
        "gate_up_proj": (2 * intermediate / tp, hidden),
        "down_proj": (hidden, intermediate / tp),
    }


def stream_bytes(model: str, tp: float) -> dict[str, float] | None:
    """Bytes that each streaming kernel of a layer touches per token (bf16, one rank), as mapping.py counts them."""
    heads, widths = MODEL_HEADS.get(model.lower()), MODEL_WIDTHS.get(model.lower())
    if heads is None or widths is None:
        return None
    rotated = (heads[0] / tp + max(1.0, heads[1] / tp)) * heads[2]
    return {"norm": 8.0 * widths[0], "activation": 6.0 * widths[1] / tp, "rope": 4.0 * rotated}


def layer_products(columns: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The matrix products among rows of a table of layers, as columns of `gemm` (bf16), and which rows they are."""
    shapes: list[tuple[float, float, float]] = []
    rows = []
    models = dict.fromkeys(zip(columns["model"].tolist(), columns["tp"].tolist()))
    known = {key: layer_widths(*key) or {} for key in models}
    parts = (columns[c].tolist() for c in ("model", "tp", "op", "num_tokens"))
    for row, (model, tp, op, tokens) in enumerate(zip(*parts)):
        widths = known[model, tp].get(op)
        if widths is not None:
            rows.append(row)
            shapes.append((tokens, *widths))
    m, n, k = np.array(shapes, float).reshape(-1, 3).T
    chosen = np.array(rows, np.int64)
    out: dict[str, NDArray[Any]] = {"dtype": np.full(len(rows), "bfloat16", dtype=object), "m": m, "n": n, "k": k}
    if "us" in columns:
        out["us"] = columns["us"][chosen]
    return out, chosen


def _add_heads(table: Table, out: dict[str, NDArray[Any]]) -> None:
    heads = np.empty((3, len(table.rows)))
    for row, (model, tp) in enumerate(zip(out["model"].tolist(), out["tp"].tolist())):
        known = MODEL_HEADS.get(model.lower())
        if known is None:
            raise TableError(
                f"{table.path}, line {table.lines[row]}, column model: the heads of '{model}' are not known; "
                f"known models: {', '.join(sorted(MODEL_HEADS))}"
            )
        heads[:, row] = known[0] / tp, max(1.0, known[1] / tp), known[2]
    out["heads_q"], out["heads_kv"], out["head_dim"] = heads
