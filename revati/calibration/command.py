"""`revati calibrate` and `revati validate`: the command line of this package."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from revati._errors import UsageError
from revati.calibration.cells import COLUMNS, MODELS, plan_cells
from revati.calibration.plan import case_cells, parse_duration, plan_text

__all__ = ["add", "add_validate"]


def add(subparsers: Any) -> None:
    """Adds `calibrate` to the command's parser."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure operators on a real GPU and train a pack",
        description="Measure operators on a real GPU and train a pack. See docs/calibration.md.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    plan = verbs.add_parser("plan", help="what would be measured, how long it takes, what is there already")
    plan.add_argument("--budget", default="10m", help="time to plan for: 90s, 10m, 1h (default 10m)")
    plan.add_argument(
        "--results", type=Path, action="append", default=[], help="folder of earlier results; may be repeated"
    )
    plan.add_argument(
        "--for", dest="case", type=Path, metavar="CASE.yaml", help="only what this case needs, and what is missing"
    )
    plan.add_argument("--model", action="append", default=[], choices=MODELS)
    plan.set_defaults(run=_plan)

    run = verbs.add_parser("run", help="measure on this machine's GPU; goes on where an earlier run stopped")
    run.add_argument("--out", type=Path, required=True, help="folder of the results")
    run.add_argument("--budget", default="10m")
    run.add_argument("--for", dest="case", type=Path, metavar="CASE.yaml")
    run.add_argument("--model", action="append", default=[], choices=MODELS)
    run.add_argument("--family", action="append", default=[], choices=COLUMNS)
    run.add_argument(
        "--dry-run", action="store_true", help="tiny shapes on the CPU; rows are marked dry and never trained on"
    )
    run.set_defaults(run=_run)

    export = verbs.add_parser("export", help="results to training tables")
    export.add_argument("results", type=Path, nargs="+", help="folders of results, files of `revati record`")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--format", choices=("csv", "parquet"), default="csv")
    export.add_argument("--gpu", default="", help="key of the GPU in the tables (default: from the card's name)")
    export.set_defaults(run=_export)

    host = verbs.add_parser("host", help="host-cost profile: nanoseconds per API call and per engine step")
    host.add_argument("results", type=Path, help="folder of results, or a file of `revati record`")
    host.add_argument(
        "--base",
        metavar="NAME|FILE",
        help="write a host profile for `--host-profile`: this one with the measured CUDA calls",
    )
    host.add_argument("--out", type=Path, help="the file: JSON, with --base YAML (default: print)")
    host.set_defaults(run=_host)

    train = verbs.add_parser("train", help="training tables to a pack")
    train.add_argument("tables", type=Path)
    train.add_argument("--out", type=Path, required=True, help="folder of the new pack")
    train.add_argument(
        "--base", type=Path, help="folder of packs that fill in families not measured (default: installed)"
    )
    train.set_defaults(run=_train)


def add_validate(subparsers: Any) -> None:
    """Adds `validate` to the command's parser."""
    parser = subparsers.add_parser(
        "validate",
        help="a real result and an emulated one side by side",
        description="Compare a real result with an emulated one of the same case, made by scripts/gpu/serving "
        "on both sides, or two results of bench serve.",
    )
    parser.add_argument("case", type=Path, metavar="CASE.yaml")
    parser.add_argument("--real", type=Path, required=True, help="folder of the real results, or one result file")
    parser.add_argument(
        "--emulated", type=Path, required=True, help="folder of the emulated results, or one result file"
    )
    parser.add_argument("--group", choices=("calibrated", "public-data", "public-runs"), default="calibrated")
    parser.add_argument("--pack", default="", help="name of the pack that the emulated run used")
    parser.add_argument("--note", action="append", default=[])
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the whole comparison, as validation/results wants it"
    )
    parser.set_defaults(run=_validate)


def _plan(arguments: argparse.Namespace) -> int:
    print(plan_text(parse_duration(arguments.budget), arguments.results, arguments.case, arguments.model), end="")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from revati.calibration.measure.conditions import NoGpuError

    try:
        import torch  # noqa: F401
    except ImportError:
        raise UsageError("measuring needs torch with CUDA on this machine") from None
    from revati.calibration.measure.facts import run_facts
    from revati.calibration.measure.sweep import run_sweep

    budget_s = parse_duration(arguments.budget)
    cells = case_cells(arguments.case) if arguments.case else plan_cells(arguments.model, arguments.family)
    start = time.monotonic()
    try:
        facts = run_facts(arguments.out, min(120.0, budget_s / 4), dry=arguments.dry_run)
        counts = run_sweep(arguments.out, cells, budget_s - (time.monotonic() - start), dry=arguments.dry_run)
    except NoGpuError as problem:
        raise UsageError(str(problem)) from None
    print(f"facts: {facts['measured']} measured, {facts['failed']} failed, {facts['left']} left")
    print(f"cells: {counts['measured']} measured, {counts['failed']} not possible here, {counts['left']} left")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from revati.calibration.dataset import load_results, write_tables

    measured = load_results(arguments.results, arguments.gpu)
    for name, rows in write_tables(measured, arguments.out, arguments.format).items():
        print(f"{rows:6d} rows  {arguments.out / name}")
    for reason, rows in measured.left_out.items():
        print(f"{rows:6d} rows left out: {reason}")
    return 0


def _host(arguments: argparse.Namespace) -> int:
    from revati._hostprofile import load_host_profile
    from revati.calibration.hostprofile import host_profile, usable_profile

    measured = host_profile(arguments.results)
    text = json.dumps(measured, indent=1) + "\n"
    if arguments.base is not None:
        text = usable_profile(measured, load_host_profile(arguments.base))
    if arguments.out:
        arguments.out.write_text(text)
    else:
        print(text, end="")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from revati.calibration.train import train_pack

    print("\n".join(train_pack(arguments.tables, arguments.out, arguments.base)))
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from revati.calibration.accuracy import summarise
    from revati.calibration.cases import load_case
    from revati.calibration.compare import (
        compare_folders,
        compare_requests,
        compare_startup,
        load_requests,
        startup_of,
    )

    case = load_case(arguments.case)
    for side in (arguments.real, arguments.emulated):
        if not side.exists():
            raise UsageError(f"{side}: no such file or folder")
    if arguments.real.is_dir() and arguments.emulated.is_dir():
        real, emulated = (
            p / case.name if (p / case.name).is_dir() else p for p in (arguments.real, arguments.emulated)
        )
        report = compare_folders(real, emulated)
    elif arguments.real.is_file() and arguments.emulated.is_file():
        real, emulated = arguments.real, arguments.emulated
        name = case.runs[0].name if len(case.runs) == 1 else real.stem
        report = {"runs": {name: compare_requests([load_requests(real)], load_requests(emulated))}}
        report["startup"] = compare_startup(_published(real).get("startup", {}), startup_of(emulated.parent))
    else:
        raise UsageError("--real and --emulated must both be folders or both be files")
    for name, run in report["runs"].items():
        for metric, entry in run["metrics"].items():
            parts = {"": entry} if metric == "throughput" else {s: entry[s] for s in ("mean", "p50", "p99")}
            for statistic, e in parts.items():
                print(
                    f"{name:10s} {metric:11s} {statistic:5s} real {e['real']:12.3f}  emulated {e['emulated']:12.3f}  "
                    f"error {e['error_pct']:7.2f} %  spread {_or_dash(e['spread_pct']):>6} %"
                )
        if "steps" in run:
            print(
                f"{name:10s} same batches {run['steps']['same_in_place_pct']} % in place, "
                f"{run['steps']['same_aligned_pct']} % aligned"
            )
    for name, e in report.get("startup", {}).items():
        print(f"{name:22s} real {e['real']:14.2f}  emulated {e['emulated']:14.2f}  error {e['error_pct']:7.3f} %")
    print("worst and central errors in percent: " + ", ".join(f"{k} {v:.2f}" for k, v in summarise(report).items()))
    if arguments.json:
        record = {
            "case": case.name,
            "group": arguments.group,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "gpu": case.gpu,
            "pack": arguments.pack,
            "real": _session(real),
            "emulated": _session(emulated),
            "notes": arguments.note,
            "report": report,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return 0


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _published(table: Path) -> dict[str, Any]:
    """What is known of a published table's run: X.conditions.json beside X.requests.csv.gz; empty if there is none."""
    path = table.with_name(table.name.split(".requests.")[0] + ".conditions.json")
    return dict(json.loads(path.read_text())) if ".requests." in table.name and path.is_file() else {}


def _session(side: Path) -> dict[str, Any]:
    """The conditions of one side for the record: GPU, driver, versions."""
    published = _published(side)
    if published:
        return dict(published.get("conditions", {}))
    path = (side if side.is_dir() else side.parent) / "session.json"
    if not path.is_file():
        return {}
    facts = json.loads(path.read_text())
    return {
        "GPU": facts["gpu"]["name"],
        "driver": facts["gpu"]["driver"],
        "python": facts["python"],
        **facts["versions"],
    }
