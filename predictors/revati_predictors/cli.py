"""`revati predict` and `revati packs`: durations for a table or for one operator, and what is installed."""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors.families import FAMILIES, VARIANTS, Family
from revati_predictors.gpus import Gpu, find_gpu
from revati_predictors.learned_predictor import LearnedPredictor
from revati_predictors.packs import Pack, PackError, installed_packs
from revati_predictors.predictor import SOURCE_NAMES
from revati_predictors.report import errors_markdown
from revati_predictors.tables import Table, TableError, choose_variant, read_table, typed_columns

__all__ = ["add_packs_parser", "add_predict_parser", "main", "predict_table"]

_ADDED = ("pred_us", "lo_us", "hi_us", "source")
_DEFAULTS: dict[str, Any] = {
    "dtype": "bfloat16",
    "q_dtype": "bfloat16",
    "kv_dtype": "bfloat16",
    "window_size": 0,
    "moe_tp_size": 1,
    "moe_ep_size": 1,
    "tp": 1,
    "ep": 1,
    "distribution": "balanced",
    "mode": "graph",
    "kernel": "",
    "head_dim": 128,
    "batch_size": 1,
    "gated": 1,
    "source": "frontier",
    "impl": "nccl",
    "kv_prefill": 0,
    "n_decode": 0,
    "kv_decode": 0,
    "prefill_chunk": 0,
    "devices_per_node": 8,
    "sms": 20,
    "load": "uniform",
    "model": "",
    "topology": "",
}
_ONE_SHOT = (
    "gemm",
    "attn_prefill",
    "attn_decode",
    "moe",
    "comm",
    "comm_deepep",
    "comm_links",
    "quantize",
    "mla_attention",
    "mla_bmm",
    "layer_ops",
    "attn_mixed",
)


def add_predict_parser(subparsers: Any) -> None:
    """Adds `predict` to the subparsers of a command line; the namespace gets run(arguments) -> exit code."""
    parser = subparsers.add_parser(
        "predict",
        help="durations of operators, for a table or one shape",
        description="Predict operator durations: --table IN.csv[.gz] --out OUT.csv for a table with the columns of the "
        "measured tables of the family, or one shape by its columns, e.g. revati predict gemm --gpu h100-sxm -m 512 "
        "-n 6144 -k 4096. Times are microseconds with an 80 % interval; source says how well the shape is covered.",
    )
    parser.add_argument("kind", nargs="?", metavar="FAMILY", help=f"{', '.join(_ONE_SHOT)}")
    parser.add_argument("--family", choices=FAMILIES, help="family of the table")
    parser.add_argument("--gpu", required=True, help="catalogue key, e.g. h100-sxm")
    parser.add_argument("--table", type=Path, help="CSV or CSV.gz with one operator a row")
    parser.add_argument("--out", type=Path, help="where the table with predictions goes (.csv or .csv.gz)")
    parser.add_argument("--packs", type=Path, help="directory of packs instead of the installed ones")
    parser.add_argument("--framework", default="", help="whose kernels, where no column says (default vllm)")
    parser.add_argument("--framework-version", default="", help="default: the newest that is installed")
    names = sorted({c for v in _ONE_SHOT for c in VARIANTS[v].needed} - {"framework", "version"})
    shape = parser.add_argument_group("one shape (the columns of the family's tables)")
    for name in names:
        flags = [f"--{name.replace('_', '-')}"] if len(name) > 1 else [f"-{name}"]
        shape.add_argument(*flags, dest=f"column_{name}", metavar="VALUE")
    parser.set_defaults(run=_run_predict)


def add_packs_parser(subparsers: Any) -> None:
    """Adds `packs`."""
    parser = subparsers.add_parser(
        "packs",
        help="installed model packs and what they cover",
        description="List the installed packs: GPU, tables, rows, held-out error, licence.",
    )
    parser.add_argument("--gpu", help="only this GPU, with the coverage box of every section")
    parser.add_argument("--packs", type=Path, help="directory of packs instead of the installed ones")
    parser.add_argument("--markdown", action="store_true", help="held-out errors by family and section, as Markdown")
    parser.set_defaults(run=_run_packs)


def _guarded(function: Any, arguments: argparse.Namespace) -> int:
    try:
        return int(function(arguments))
    except (TableError, PackError, ValueError) as error:
        sys.stderr.write(f"revati: {error}\n")
        return 2
    except BrokenPipeError:  # the reader of our output has seen enough (head, a closed pager)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        sys.stderr.write(f"revati: {error.filename}: {error.strerror}\n")
        return 2


def _run_predict(arguments: argparse.Namespace) -> int:
    return _guarded(_predict, arguments)


def _run_packs(arguments: argparse.Namespace) -> int:
    return _guarded(_packs, arguments)


def _predict(arguments: argparse.Namespace) -> int:
    gpu = find_gpu(arguments.gpu)
    if arguments.table is not None:
        if arguments.family is None and arguments.kind in FAMILIES:
            arguments.family = arguments.kind
        if arguments.family is None:
            raise ValueError(f"--table needs --family; known: {', '.join(FAMILIES)}")
        if arguments.out is None:
            raise ValueError("--table needs --out FILE.csv for the predictions")
        table = read_table(arguments.table)
        write_table(
            arguments.out,
            *predict_table(
                table, arguments.family, gpu, arguments.framework, arguments.framework_version, arguments.packs
            ),
        )
        return 0
    kind = arguments.kind or arguments.family
    if kind is None:
        raise ValueError(f"name a family ({', '.join(_ONE_SHOT)}) or give --family, --table and --out")
    if kind not in _ONE_SHOT:
        raise ValueError(f"unknown family '{kind}'; known: {', '.join(_ONE_SHOT)}")
    return _one_shape(arguments, VARIANTS[kind], gpu)


def _one_shape(arguments: argparse.Namespace, family: Family, gpu: Gpu) -> int:
    values = {c: getattr(arguments, f"column_{c}", None) for c in family.needed}
    if "q_len" in values and "kv_len" in values:
        values["q_len"] = values["q_len"] or ("1" if family.name == "attn_decode" else values["kv_len"])
        values["kv_len"] = values["kv_len"] or values["q_len"]
    for name, value in values.items():
        if value is None:
            if name in ("framework", "version"):
                values[name] = {"framework": arguments.framework or "vllm", "version": arguments.framework_version}[
                    name
                ]
            elif name in _DEFAULTS:
                values[name] = str(_DEFAULTS[name])
            else:
                flag = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
                raise ValueError(f"{family.name} needs {flag}; it takes {', '.join(family.needed)}")
    if family.name == "layer_ops" and not values["model"]:
        values["model"] = "unnamed"
    table = Table(Path("(command line)"), list(values), [[str(v) for v in values.values()]], [1])
    columns = typed_columns(table, family)
    predictor = LearnedPredictor(gpu, arguments.framework or "vllm", arguments.framework_version, arguments.packs)
    us, low, high, source = predictor.rows(family, columns, predictor.framework, predictor.version)
    print(
        f"{us[0]:.4g} us   80 % interval {low[0]:.4g} .. {high[0]:.4g} us   {SOURCE_NAMES[source[0]]}   "
        f"({family.name} on {gpu.key}; roofline {float(np.asarray(family.roofline_us(gpu, columns))[0]):.4g} us)"
    )
    return 0


def predict_table(
    table: Table, family_name: str, gpu: Gpu, framework: str = "", version: str = "", packs: Path | None = None
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table with pred_us, lo_us, hi_us and source added, rows in their order."""
    family = choose_variant(table, family_name)
    columns = typed_columns(table, family)
    n = len(table.rows)
    predictor = LearnedPredictor(gpu, framework or "vllm", version, packs)
    us, low, high, source = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n, np.int64)
    for (row_framework, row_version), rows in _by_version(table, framework, version):
        part = {name: values[rows] for name, values in columns.items()}
        us[rows], low[rows], high[rows], source[rows] = predictor.rows(family, part, row_framework, row_version)
    keep = [
        i
        for i, name in enumerate(table.header)
        if name not in _ADDED[:3] and (name != "source" or family.name == "layer_ops")
    ]
    names = [table.header[i] for i in keep]
    added = list(_ADDED)
    if (
        "source" in names
    ):  # layer_ops tables have a column of this name: the prediction's comes last and is the one to read
        names[names.index("source")] = "table_source"
    out = []
    for row, values in enumerate(table.rows):
        out.append(
            [values[i] for i in keep]
            + [f"{us[row]:.6g}", f"{low[row]:.6g}", f"{high[row]:.6g}", SOURCE_NAMES[source[row]]]
        )
    return names + added, out


def _by_version(table: Table, framework: str, version: str) -> list[tuple[tuple[str, str], NDArray[np.int64]]]:
    n = len(table.rows)
    frameworks = table.column("framework") if "framework" in table.header else [framework or "vllm"] * n
    versions = table.column("version") if "version" in table.header else [version] * n
    groups: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(frameworks, versions)):
        groups.setdefault(key, []).append(row)
    return [(key, np.array(rows)) for key, rows in groups.items()]


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write CSV, compressed if the name ends in .gz."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _packs(arguments: argparse.Namespace) -> int:
    packs = installed_packs(arguments.packs)
    if not packs:
        raise PackError(
            "no packs are installed; durations come from the roofline (train packs with scripts/train-packs)"
        )
    if arguments.gpu:
        key = find_gpu(arguments.gpu).key
        packs = [p for p in packs if p.gpu.key == key]
        if not packs:
            raise PackError(
                f"no pack for {key}; installed: {', '.join(p.gpu.key for p in installed_packs(arguments.packs))}"
            )
    if arguments.markdown:
        print(errors_markdown(packs))
        return 0
    print(
        f"{'GPU':<14} {'table':<18} {'framework':<22} {'rows':>7} {'KB':>6} {'random':>13} {'region':>13} "
        f"{'cover':>6}  licence"
    )
    for pack in packs:
        _print_pack(pack, detailed=bool(arguments.gpu))
    print(
        "random / region: median/mean absolute error in % on held-out shapes and on held-out regions; "
        "cover: share inside the 80 % interval"
    )
    return 0


def _error(entry: dict[str, Any], name: str) -> str:
    held = entry["held_out"].get(name) or {}
    return f"{held['median']:.1f}/{held['mean']:.1f}" if held else "-"


def _print_pack(pack: Pack, detailed: bool) -> None:
    if pack.transfer_from:
        print(
            f"{pack.gpu.key:<14} transfer: own roofline, ratio model of {pack.transfer_from}"
            + ("" if not pack.entries else "; and own tables:")
        )
    for entry in pack.entries:
        raw = entry.raw
        framework = f"{entry.framework} {entry.version}".strip() or "(in the rows)"
        cover = (raw["held_out"].get("random") or {}).get("coverage")
        shown = "-" if cover is None else f"{100 * cover:.0f} %"
        region = next((r for r in ("region", "model") if r in raw["held_out"]), "region")
        print(
            f"{pack.gpu.key:<14} {entry.variant:<18} {framework[:22]:<22} {entry.rows:>7} {raw['bytes'] // 1024:>6} "
            f"{_error(raw, 'random'):>13} {_error(raw, region):>13} {shown:>6}  "
            f"{raw['licence']}"
        )
        if detailed:
            print(f"{'':<15}source {raw['source']}")
            for name, values in sorted(raw["box"].items()):
                listed = (
                    ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
                    if values and isinstance(values[0], str)
                    else f"{values[0]:g} .. {values[-1]:g}"
                    if values
                    else ""
                )
                print(f"{'':<15}{name}: {listed}")


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m revati_predictors predict|packs ...`"""
    parser = argparse.ArgumentParser(prog="revati_predictors", description=__doc__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    add_predict_parser(subparsers)
    add_packs_parser(subparsers)
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))
