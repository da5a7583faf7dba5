"""The command line of experiments: bench, case, compare, report, check, bisect."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from revati import RevatiError, UsageError

if TYPE_CHECKING:
    from revati.experiments.runner import Runner

__all__ = ["add_parsers"]


def add_parsers(subparsers: Any) -> None:
    """Adds the sub-commands; each sets `run` to a function of the parsed arguments that returns the exit code."""
    _add_bench(subparsers)
    _add_case(subparsers)
    _add_compare(subparsers)
    _add_report(subparsers)
    _add_check(subparsers)
    _add_bisect(subparsers)


def _add_bench(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="run a case and report what its clients measured",
        description="Start server and load of a case in one virtual clock, measure at the client, stop everything.",
    )
    parser.add_argument("case", type=Path, help="case file (YAML)")
    _add_run_options(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: results/NAME")
    parser.add_argument("--html", action="store_true", help="write report.html into the directory too")
    parser.add_argument("--trace", action="store_true", help="write trace.json (Perfetto) into the directory too")
    parser.set_defaults(run=_bench)


def _add_run_options(parser: Any) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="overrides a key of the case: a.b=c"
    )
    parser.add_argument("--native", action="store_true", help="no emulation: the host's own clock and devices")


def _add_case(subparsers: Any) -> None:
    parser = subparsers.add_parser("case", help="the case format: schema, presets, validation")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("schema", help="print the JSON schema").set_defaults(run=_case_schema)
    actions.add_parser("presets", help="list the shipped presets").set_defaults(run=_case_presets)
    show = actions.add_parser("show", help="check a case and print it with every default filled in")
    show.add_argument("case", type=Path)
    show.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    show.set_defaults(run=_case_show)


def _add_compare(subparsers: Any) -> None:
    parser = subparsers.add_parser("compare", help="what changed between results, and where the time went")
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT", help="result files or directories; the first is the base"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="draw the comparison too")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(run=_compare)


def _add_report(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report", help="draw results as one self-contained HTML file, or as a Perfetto trace"
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write the first result as a Perfetto trace (JSON)")
    parser.set_defaults(run=_report)


def _add_check(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "check",
        help="compare cases with a committed baseline",
        description="Run cases and compare with a baseline. Exit codes: 0 pass, 1 regression, 2 unusable input, "
        "3 not comparable (pack, policy, seed, workload or device differ).",
    )
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE", help="case files or directories of them")
    parser.add_argument("--baseline", type=Path, default=Path("revati-baseline.json"), metavar="FILE")
    _add_run_options(parser)
    parser.add_argument("--update", action="store_true", help="write the baseline and show what changed in it")
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help="cases at a time (default: half the cores)")
    parser.add_argument("--work", type=Path, default=Path(".revati-check"), metavar="DIR", help="results of the cases")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write a summary for a pull request ('-': stdout)"
    )
    parser.set_defaults(run=_check)


def _add_bisect(subparsers: Any) -> None:
    parser = subparsers.add_parser("bisect", help="find the first framework version in which a case regresses")
    parser.add_argument("case", type=Path)
    parser.add_argument(
        "--env",
        action="append",
        required=True,
        metavar="NAME=PYTHON",
        help="a version and the python of its environment, oldest first; repeat",
    )
    _add_run_options(parser)
    parser.add_argument("--linear", action="store_true", help="run every version instead of halving")
    parser.add_argument("--work", type=Path, default=Path(".revati-bisect"), metavar="DIR")
    parser.set_defaults(run=_bisect)


def _runner(arguments: argparse.Namespace, stop: threading.Event | None = None) -> Runner:
    from revati.experiments.runner import EmulatedRunner, NativeRunner

    return NativeRunner(stop) if arguments.native else EmulatedRunner(stop)


def _end_like_interrupt() -> None:
    """A CI system that cancels sends TERM: it shall leave the same valid partial results as Ctrl-C."""

    def on_term(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_term)


def _bench(arguments: argparse.Namespace) -> int:
    from revati.experiments.bench import run_case
    from revati.experiments.case import load_case
    from revati.experiments.compare import shown, summary_metrics, table

    _end_like_interrupt()
    case = load_case(arguments.case, arguments.set)
    out = arguments.output or Path("results") / case.name
    result = run_case(case, out, _runner(arguments))
    if result["statistics"].get("warning"):
        print(result["statistics"]["warning"])
        for row in result["statistics"]["uncovered"]:
            print(f"  {row['us']:10.1f} us  {row['operator']}")
    rows = [[name, shown(result["metrics"][name])] for name in summary_metrics([result]) if name in result["metrics"]]
    print(table(["metric", case.name], rows))
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"result: {out / 'result.json'}")
    if arguments.html:
        _write_report([result], [case.name], out / "report.html")
    if arguments.trace:
        _write_trace(result, out / "trace.json")
    if result["outcome"]["reason"] == "interrupted":
        return 130
    return 0 if result["complete"] else 1


def _write_report(results: list[dict[str, Any]], names: list[str], path: Path) -> None:
    from revati.experiments.report.html import render

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(results, names), encoding="utf-8")
    print(f"report: {path}")


def _write_trace(result: dict[str, Any], path: Path) -> None:
    from revati.experiments.perfetto import trace_events

    path.write_text(json.dumps(trace_events(result)), encoding="utf-8")
    print(f"trace: {path} (open in ui.perfetto.dev)")


def _case_schema(arguments: argparse.Namespace) -> int:
    from revati.experiments.case import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _case_presets(arguments: argparse.Namespace) -> int:
    from revati.experiments.case import PRESETS, preset_names

    for name in preset_names():
        first = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").split("\n")[0]
        print(f"{name:20} {first.removeprefix('# ')}")
    return 0


def _case_show(arguments: argparse.Namespace) -> int:
    import yaml

    from revati.experiments.case import load_case

    case = load_case(arguments.case, arguments.set)
    print(yaml.safe_dump(case.data, sort_keys=False, allow_unicode=True), end="")
    return 0


def _named_results(paths: list[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """Results with distinct names for the columns."""
    from revati.experiments.results import read_result

    results = [read_result(path) for path in paths]
    names = [str(result["case"]["name"]) for result in results]
    if len(set(names)) < len(names):
        names = [path.parent.name if path.name == "result.json" else path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return results, names


def _compare(arguments: argparse.Namespace) -> int:
    from revati.experiments import compare

    if len(arguments.results) < 2:
        raise UsageError("compare needs two results or more")
    results, names = _named_results(arguments.results)
    if arguments.json:
        first = results[0]
        rows = [
            {
                "name": name,
                "changes": [
                    vars(row) for row in compare.changes(first["metrics"], other["metrics"]) if row.verdict != "same"
                ],
                "causes": compare.causes(first, other),
                "not_comparable": compare.not_comparable(first["identity"], other["identity"]),
            }
            for name, other in zip(names[1:], results[1:])
        ]
        print(json.dumps({"base": names[0], "others": rows}, indent=2))
    else:
        print(compare.text_report(results, names))
    if arguments.html is not None:
        _write_report(results, names, arguments.html)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    results, names = _named_results(arguments.results)
    _write_report(results, names, arguments.output)
    if arguments.trace is not None:
        _write_trace(results[0], arguments.trace)
    return 0


def _case_files(paths: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
            if not found:
                raise UsageError(f"{path}: no case files (*.yaml) in this directory")
            files.extend(found)
        else:
            files.append(path)
    return files


def _check(arguments: argparse.Namespace) -> int:
    from revati.experiments import check
    from revati.experiments.case import load_case

    _end_like_interrupt()
    cases = [load_case(path, arguments.set) for path in _case_files(arguments.cases)]
    names = [case.name for case in cases]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two cases are named '{name}'; a baseline needs distinct names")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {arguments.jobs}")
    baseline: dict[str, Any] = {}
    if arguments.baseline.exists():
        baseline = check.read_baseline(arguments.baseline)
    elif not arguments.update:
        raise UsageError(f"{arguments.baseline}: no such baseline; write it with --update and commit it")
    jobs = arguments.jobs or max(1, min(len(cases), (os.cpu_count() or 2) // 2))
    try:
        verdicts = check.check_cases(
            cases,
            baseline,
            arguments.work,
            lambda stop: _runner(arguments, stop),
            jobs=jobs,
            said=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on where it stopped ({arguments.work})", file=sys.stderr)
        return 130
    if arguments.junit is not None:
        _write(arguments.junit, check.junit(verdicts))
    if arguments.update:
        for line in check.update_baseline(arguments.baseline, baseline, verdicts):
            print(line)
        failed = [verdict for verdict in verdicts if verdict.result is None or not verdict.result["complete"]]
        return check.exit_code(failed) if failed else 0
    summary = check.markdown(verdicts)
    if arguments.markdown is not None and str(arguments.markdown) != "-":
        _write(arguments.markdown, summary)
    print(summary if str(arguments.markdown) == "-" else check.text(verdicts), end="")
    return check.exit_code(verdicts)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RevatiError(f"{path}: cannot write: {error.strerror}") from None


def _bisect(arguments: argparse.Namespace) -> int:
    from revati.experiments.bisect import bisect, parse_environments
    from revati.experiments.case import load_case

    _end_like_interrupt()
    case = load_case(arguments.case, arguments.set)
    environments = parse_environments(arguments.env)
    outcome = bisect(case, environments, arguments.work, _runner(arguments), linear=arguments.linear, said=print)
    print(outcome.sentence)
    return 1 if outcome.first_bad is not None else 0
