"""docs/accuracy.md from the committed results: nothing in that page is written by hand, so it cannot drift from
what was measured.

A result is validation/results/NAME.json: {"case", "group": "calibrated" | "public-data" | "public-runs", "date",
"gpu", "pack", "real": conditions, "emulated": conditions, "notes": [...], "report": what compare.py made}.

    python -m revati.calibration.accuracy            # write
    python -m revati.calibration.accuracy --check    # exit 1 if the page is not what the results give
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["main", "page"]

_GROUPS = {
    "calibrated": "Own cases, pack trained on the card's own sweep",
    "public-data": "Own cases, pack trained on published tables",
    "public-runs": "Runs published by others",
}
_HEAD = """# Accuracy

Generated from `validation/results/` by `python -m revati.calibration.accuracy`; do not edit. Errors are
(emulated / real - 1) in percent. "Spread" is the difference between the real system's own repeats: an error below it
is no error. What was expected before measuring is in `validation/expectations.yaml` and is not changed afterwards.

"""


def page(results: Sequence[dict[str, Any]], expectations: dict[str, Any]) -> str:
    """The whole page as Markdown."""
    text = _HEAD
    if not results:
        text += (
            "**No result has been measured yet.** The cases and the expected errors are registered in `validation/`; "
            "`docs/calibration.md` says which commands produce the results.\n\n"
        )
    else:
        text += _overview(results, expectations)
    for group, title in _GROUPS.items():
        chosen = [r for r in results if r["group"] == group]
        if chosen:
            text += f"## {title}\n\n" + "".join(_case(r) for r in chosen)
    return text + _expected(expectations)


def _number(value: Any, digits: int = 1) -> str:
    return "-" if value is None or (isinstance(value, float) and math.isnan(value)) else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *("| " + " | ".join(r) + " |" for r in rows)]
    return "\n".join(lines) + "\n\n"


def summarise(report: dict[str, Any]) -> dict[str, float]:
    """The figures that are held against expectations: absolute errors in percent, the worst over runs."""
    central: list[float] = []
    tail: list[float] = []
    by_metric: dict[str, list[float]] = {}
    for run in report.get("runs", {}).values():
        for metric, entry in run["metrics"].items():
            if metric == "throughput":
                central.append(abs(entry["error_pct"]))
                continue
            central += [abs(entry[s]["error_pct"]) for s in ("mean", "p50")]
            tail.append(abs(entry["p99"]["error_pct"]))
            by_metric.setdefault(metric.removesuffix("_ms"), []).append(abs(entry["p50"]["error_pct"]))
    found = {metric: max(errors) for metric, errors in by_metric.items()}
    if central:
        found["median"] = sorted(central)[len(central) // 2]
        found["worst"] = max(central)
    if tail:
        found["p99"] = max(tail)
    kv = report.get("startup", {}).get("kv_tokens")
    if kv:
        found["kv_blocks"] = abs(kv["error_pct"])
    steps = report.get("runs", {}).get("low", {}).get("steps")
    if steps:
        found["same_batches_at_low_rate"] = steps["same_aligned_pct"]
    return found


def _overview(results: Sequence[dict[str, Any]], expectations: dict[str, Any]) -> str:
    rows = []
    for result in results:
        found = summarise(result["report"])
        expected = (expectations.get(result["group"]) or {}).get(result["case"], {})
        for name, limit in expected.items():
            value = found.get(name)
            floor = name.startswith("same_")
            met = (
                "not measured"
                if value is None
                else "yes"
                if (value >= limit if floor else value <= limit)
                else "**no**"
            )
            rows.append(
                [
                    result["case"],
                    result["group"],
                    name.replace("_", " "),
                    f"{'>=' if floor else '<='} {limit}",
                    _number(value, 2),
                    met,
                ]
            )
    return "## Expected and found\n\n" + _table(["case", "group", "figure (%)", "expected", "found", "met"], rows)


def _case(result: dict[str, Any]) -> str:
    text = f"### {result['case']}\n\n"
    text += f"{result['gpu']}, pack `{result['pack']}`, {result['date']}. Real: {_conditions(result['real'])}. "
    text += f"Emulated: {_conditions(result['emulated'])}.\n\n"
    report = result["report"]
    for name, run in report.get("runs", {}).items():
        rows = []
        for metric, entry in run["metrics"].items():
            if metric == "throughput":
                rows.append(
                    [
                        "throughput (tok/s)",
                        "",
                        _number(entry["real"]),
                        _number(entry["emulated"]),
                        _number(entry["error_pct"]),
                        _number(entry["spread_pct"]),
                    ]
                )
                continue
            for statistic in ("mean", "p50", "p90", "p99"):
                e = entry[statistic]
                rows.append(
                    [
                        metric.replace("_ms", " (ms)").upper().replace("(MS)", "(ms)"),
                        statistic,
                        _number(e["real"], 2),
                        _number(e["emulated"], 2),
                        _number(e["error_pct"]),
                        _number(e["spread_pct"]),
                    ]
                )
        text += f"**{name}**: {run['requests']['emulated']} requests\n\n"
        text += _table(["metric", "", "real", "emulated", "error %", "spread %"], rows)
        if "steps" in run:
            text += _steps(run)
    if report.get("offline"):
        rows = [
            [n, _number(e["real"], 3), _number(e["emulated"], 3), _number(e["error_pct"]), _number(e["spread_pct"])]
            for n, e in report["offline"].items()
        ]
        text += "**Offline batches** (seconds)\n\n" + _table(["batch", "real", "emulated", "error %", "spread %"], rows)
    if report.get("startup"):
        rows = [
            [n.replace("_", " "), _number(e["real"], 2), _number(e["emulated"], 2), _number(e["error_pct"], 2)]
            for n, e in report["startup"].items()
        ]
        text += "**Start-up**\n\n" + _table(["", "real", "emulated", "error %"], rows)
    for note in result.get("notes", []):
        text += f"- {note}\n"
    return text + ("\n" if result.get("notes") else "")


def _steps(run: dict[str, Any]) -> str:
    steps = run["steps"]
    text = (
        f"Steps: {steps['steps'][0]} real, {steps['steps'][1]} emulated; "
        f"same batch in {_number(steps['same_in_place_pct'])} % in place, "
        f"{_number(steps['same_aligned_pct'])} % aligned"
    )
    again = run.get("steps_of_real_repeats")
    text += f" (the real system's own repeats: {_number(again['same_aligned_pct'])} % aligned)" if again else ""
    rows = [
        [
            kind,
            _number(e["real_us"], 0),
            _number(e["emulated_us"], 0),
            _number(e["error_pct"]),
            f"{e['steps'][0]} / {e['steps'][1]}",
        ]
        for kind, e in steps["gpu_us_by_kind"].items()
    ]
    return text + ".\n\n" + (_table(["step", "real us", "emulated us", "error %", "steps"], rows) if rows else "")


def _conditions(facts: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in facts.items()) or "not recorded"


def _expected(expectations: dict[str, Any]) -> str:
    rows = []
    for group in _GROUPS:
        for case, limits in (expectations.get(group) or {}).items():
            rows.append([group, case, ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in limits.items())])
    return f"## Registered expectations ({expectations.get('registered', 'undated')})\n\n" + _table(
        ["group", "case", "percent"], rows
    )


def load_results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))] if folder.exists() else []


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks docs/accuracy.md of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    expectations = yaml.safe_load((args.root / "validation" / "expectations.yaml").read_text())
    text = page(load_results(args.root / "validation" / "results"), expectations).rstrip("\n") + "\n"
    target = args.root / "docs" / "accuracy.md"
    if args.check:
        if not target.exists() or target.read_text() != text:
            print(
                f"{target} is not what validation/results gives; run: python -m revati.calibration.accuracy",
                file=sys.stderr,
            )
            return 1
        return 0
    target.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
