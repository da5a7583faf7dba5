"""From a directory of measured tables to installed packs, a report, and nothing else: what scripts/train-packs runs.

The directory holds <family>/<gpu>.<framework>-<version>.csv.gz (or any table with a `gpu` column). Each (variant, GPU,
framework, version) becomes a section. Same tables, same seed: byte-identical packs.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from revati_predictors.families import FAMILIES, VARIANTS
from revati_predictors.gpus import GPUS, UnknownGpuError, find_gpu
from revati_predictors.packs import MANIFEST, PACK_FORMAT, installed_packs, packs_root
from revati_predictors.report import write_report
from revati_predictors.tables import choose_variant, layer_products, read_table, typed_columns
from revati_predictors.train import train_section

__all__ = ["Job", "find_jobs", "main", "train_all"]

_PER_ROW_VERSIONS = frozenset({"comm", "quantize", "mla"})  # framework and version are columns of the configuration
_EAGER = {("gemm", "vllm", "0.24.0"): ["fp8_block"]}  # measured without a CUDA graph: includes the host's launch time


@dataclass(frozen=True)
class Job:
    """One section to train."""

    path: Path
    family: str
    variant: str
    gpu: str
    gpu_names: tuple[str, ...]
    framework: str
    version: str
    from_layers: bool = False  # matrix products taken from a table of whole layers

    @property
    def file(self) -> str:
        """The section's file name in the pack."""
        tail = f".{self.framework}-{self.version}" if self.framework else ""
        return f"{self.variant}{'.layers' if self.from_layers else ''}{tail}.sec".replace("/", "-").replace(" ", "-")


def find_jobs(tables: Path) -> list[Job]:
    """Every section that the tables hold. Raises TableError for an unreadable one."""
    jobs: dict[tuple[str, ...], Job] = {}
    for path in sorted(tables.glob("*/*.csv.gz")) + sorted(tables.glob("*/*.csv")):
        family = path.parent.name
        if family not in FAMILIES:
            continue
        table = read_table(path)
        variant = choose_variant(table, family)
        gpus = table.column("gpu")
        per_row = family in _PER_ROW_VERSIONS
        frameworks = table.column("framework") if "framework" in table.header and not per_row else [""] * len(gpus)
        versions = table.column("version") if "version" in table.header and not per_row else [""] * len(gpus)
        for gpu_name, framework, version in sorted(set(zip(gpus, frameworks, versions))):
            try:
                gpu = find_gpu(gpu_name).key
            except UnknownGpuError:
                continue
            section = (variant.name, gpu, framework, version)
            names = (*jobs[section].gpu_names, gpu_name) if section in jobs else (gpu_name,)
            jobs[section] = Job(path, family, variant.name, gpu, names, framework, version)
    for job in [j for j in jobs.values() if j.variant == "layer_ops_eager"]:
        # The matrix products among the layers: few shapes, but this card's and this version's own.
        key = ("layers", job.gpu, job.framework, job.version)
        jobs[key] = replace(job, family="gemm", variant="gemm", from_layers=True)
    return sorted(jobs.values(), key=lambda j: (j.gpu, j.file))


def _licence(tables: Path, path: Path) -> dict[str, str]:
    manifest = tables / "manifest.json"
    if manifest.is_file():
        for entry in json.loads(manifest.read_text()):
            if entry.get("file") == f"{path.parent.name}/{path.name}":
                return {"licence": entry["license"], "source": entry["source"]}
    return {"licence": "not stated", "source": path.name}


def _shapes(columns: dict[str, Any]) -> list[list[int]]:
    """The different (n, k) of rows of products."""
    return [list(map(int, shape)) for shape in sorted(set(zip(columns["n"].tolist(), columns["k"].tolist())))]


def _run(job: Job, tables: Path, out: Path, seed: int, trees: int) -> dict[str, Any]:
    start, cpu_start = time.monotonic(), time.process_time()
    table = read_table(job.path)
    variant = VARIANTS[job.variant]
    columns = typed_columns(table, choose_variant(table, job.path.parent.name), times=True)
    chosen = np.isin(np.array(table.column("gpu"), dtype=object).astype(str), job.gpu_names)
    if job.framework:
        chosen &= np.array(table.column("framework")) == job.framework
        chosen &= np.array(table.column("version")) == job.version
    columns = {name: values[chosen] for name, values in columns.items()}
    if job.from_layers:
        columns, _ = layer_products(columns)
    trained = train_section(variant, find_gpu(job.gpu), columns, seed, trees)
    data = trained.section.to_bytes()
    directory = out / job.gpu
    directory.mkdir(parents=True, exist_ok=True)
    (directory / job.file).write_bytes(data)
    rows = {name: values[:20000] for name, values in trained.rows.items()}
    np.savez(out / ".rows" / f"{job.gpu}.{job.file}.npz", allow_pickle=False, **rows)
    facts = trained.section.facts
    return {
        "gpu": job.gpu,
        "seconds": time.monotonic() - start,
        "cpu_s": time.process_time() - cpu_start,
        "entry": {
            "file": job.file,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "variant": job.variant,
            "family": job.family,
            "framework": job.framework,
            "version": job.version,
            "rows": len(columns["us"]),
            "eager_dtypes": _EAGER.get((job.family, job.framework, job.version), []),
            **({"from_layers": True, "shapes": _shapes(columns)} if job.from_layers else {}),
            "table": f"{job.path.parent.name}/{job.path.name}",
            **_licence(tables, job.path),
            "held_out": trained.report,
            "box": facts["box"],
        },
    }


def train_all(
    tables: Path,
    out: Path,
    seed: int = 1,
    trees: int = 300,
    workers: int = 2,
    only: Sequence[str] = (),
    say: Any = print,
) -> list[dict[str, Any]]:
    """Train every section into `out` (replaced), write the manifests, return the entries with their GPU."""
    jobs = [j for j in find_jobs(tables) if not only or any(o in f"{j.gpu}/{j.file}" for o in only)]
    if not jobs:
        raise ValueError(f"no tables of known families under {tables}")
    if not only and out.is_dir():
        shutil.rmtree(out)
    (out / ".rows").mkdir(parents=True, exist_ok=True)
    jobs.sort(key=lambda j: -j.path.stat().st_size)  # long ones first, so that the workers end together
    results = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_lower_priority) as pool:
        futures = [pool.submit(_run, job, tables, out, seed, trees) for job in jobs]
        for job, future in zip(jobs, futures):
            result = future.result()
            results.append(result)
            say(
                f"{job.gpu}/{job.file}: {result['entry']['rows']} rows, {result['seconds']:.0f} s "
                f"({result['cpu_s']:.0f} s of CPU), "
                f"{result['entry']['held_out'].get('random', {})}",
                flush=True,
            )
    _write_manifests(out, results, seed, trees)
    return results


def _lower_priority() -> None:
    os.nice(19)


def _write_manifests(out: Path, results: list[dict[str, Any]], seed: int, trees: int) -> None:
    by_gpu: dict[str, dict[str, Any]] = {}
    for result in results:
        by_gpu.setdefault(result["gpu"], {})[result["entry"]["file"]] = result["entry"]
    for key, gpu in sorted(GPUS.items()):
        path = out / key / MANIFEST
        entries = by_gpu.get(key, {})
        if path.is_file():  # `only` was given: the other sections stay
            entries = {**{e["file"]: e for e in json.loads(path.read_text())["sections"]}, **entries}
        manifest: dict[str, Any] = {
            "format": PACK_FORMAT,
            "gpu": key,
            "seed": seed,
            "trees": trees,
            "clock_policy": "clocks not locked; back-to-back launches",
            "driver": "not stated by the sources",
            "sections": [entries[name] for name in sorted(entries)],
        }
        if gpu.nearest != key:
            manifest["transfer_from"] = gpu.nearest
            manifest["transfer"] = "ratio to the roofline of the nearest measured GPU; marked extrapolated"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """What scripts/train-packs runs."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(prog="train-packs", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("tables", type=Path, help="directory with <family>/*.csv.gz")
    parser.add_argument("--out", type=Path, default=packs_root(), help="packs go here (default: this installation)")
    parser.add_argument("--report", type=Path, default=Path("packs-report.html"), help="report (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trees", type=int, default=300, help="trees of the largest models (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="only sections whose gpu/file contains TEXT; the others stay (repeatable)",
    )
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    try:
        if not arguments.tables.is_dir():
            raise ValueError(f"{arguments.tables}: no such directory")
        importlib.import_module("lightgbm")
        results = train_all(
            arguments.tables, arguments.out, arguments.seed, arguments.trees, arguments.workers, arguments.only
        )
        seconds, cpu_s = time.monotonic() - start, sum(result["cpu_s"] for result in results)
        took = f"{seconds:.0f} s with {arguments.workers} processes ({cpu_s:.0f} s of CPU)"
        write_report(arguments.report, installed_packs(arguments.out), arguments.out / ".rows", took)
    except ImportError as error:
        sys.stderr.write(f"train-packs: training needs LightGBM, which cannot be imported here: {error}\n")
        return 2
    except (ValueError, OSError) as error:
        sys.stderr.write(f"train-packs: {error}\n")
        return 2
    shutil.rmtree(arguments.out / ".rows")
    print(f"packs in {arguments.out}, report in {arguments.report}, {took}")
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main())
