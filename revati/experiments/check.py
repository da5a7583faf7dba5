"""The gate: cases against a committed baseline.

Exit codes: 0 everything within tolerance, 1 a regression (or a case that no longer runs), 2 unusable input,
3 not comparable (other pack, policy, seed, workload or device than the baseline's).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from revati import RevatiError, UsageError
from revati.experiments.bench import run_case
from revati.experiments.case import Case
from revati.experiments.compare import Change, causes, changes, gated, not_comparable
from revati.experiments.results import read_json, read_result, write_json
from revati.experiments.runner import Runner

__all__ = ["BASELINE_VERSION", "CaseVerdict", "check_cases", "exit_code", "junit", "markdown", "update_baseline"]

BASELINE_VERSION = 1


@dataclass
class CaseVerdict:
    """How one case did."""

    name: str
    state: str = "pass"  # pass, regression, unusable, not-comparable
    message: str = ""
    changes: list[Change] = field(default_factory=list)  # gated metrics that moved
    causes: list[str] = field(default_factory=list)
    result: dict[str, Any] | None = None
    wall_s: float = 0.0

    @property
    def worse(self) -> list[Change]:
        return [change for change in self.changes if change.verdict in ("worse", "missing")]


def read_baseline(path: Path) -> dict[str, Any]:
    """The cases of a baseline file, by name."""
    data = read_json(path, "baseline")
    if data.get("revati_baseline") != BASELINE_VERSION:
        raise UsageError(
            f"{path}: baseline version {data.get('revati_baseline')}, this Revati reads {BASELINE_VERSION}"
        )
    cases = data.get("cases")
    if not isinstance(cases, dict):
        raise UsageError(f"{path}: not a baseline: 'cases' is missing")
    for name, entry in cases.items():
        if not isinstance(entry, dict) or not all(key in entry for key in ("identity", "metrics", "case")):
            raise UsageError(f"{path}: case '{name}' is damaged; write it anew with --update")
    return cases


def baseline_entry(result: dict[str, Any]) -> dict[str, Any]:
    """What a baseline keeps of a result: enough to judge and to name causes, without the single requests."""
    return {
        "case": result["case"],
        "digest": result["digest"],
        "identity": result["identity"],
        "metrics": result["metrics"],
        "environment": result["environment"],
        "statistics": {key: value for key, value in result["statistics"].items() if key != "timeline"},
    }


def judge(case: Case, result: dict[str, Any], entry: dict[str, Any] | None) -> CaseVerdict:
    """One result against its baseline entry."""
    verdict = CaseVerdict(case.name, result=result, wall_s=result["outcome"]["wall_s"])
    if not result["complete"]:
        verdict.state, verdict.message = "regression", f"the run did not finish: {result['outcome']['message']}"
        return verdict
    if entry is None:
        verdict.state, verdict.message = "unusable", "the baseline has no such case; add it with --update"
        return verdict
    reasons = not_comparable(entry["identity"], result["identity"])
    if reasons:
        verdict.state, verdict.message = "not-comparable", "; ".join(reasons)
        return verdict
    tolerances = case.data["tolerances"]
    rows = changes(entry["metrics"], result["metrics"], tolerances)
    verdict.changes = [
        row for row in rows if row.verdict != "same" and row.verdict != "new" and gated(row.metric, tuple(tolerances))
    ]
    if verdict.worse:
        verdict.state = "regression"
        verdict.causes = causes(entry, result)
        first = max(verdict.worse, key=lambda row: abs(row.relative or 0.0))
        verdict.message = first.sentence()
    return verdict


def check_cases(
    cases: list[Case],
    baseline: dict[str, Any],
    work: Path,
    runner: Callable[[threading.Event], Runner],
    *,
    jobs: int,
    said: Callable[[str], None],
) -> list[CaseVerdict]:
    """Runs and judges all cases, `jobs` at a time; an interrupted check goes on where it stopped.

    KeyboardInterrupt passes through after the running cases have been ended and what is finished is on disk.
    """
    state_file = work / "check.json"
    finished = _finished_before(state_file, said)
    lock = threading.Lock()
    stop = threading.Event()

    def one(case: Case) -> CaseVerdict:
        out = work / case.name
        if finished.get(case.name) == case.digest():
            said(f"{case.name}: finished before the interruption, not run again")
            return judge(case, read_result(out), baseline.get(case.name))
        if stop.is_set():
            return CaseVerdict(case.name, "unusable", "not run: interrupted")
        said(f"{case.name}: running")
        try:
            result = run_case(case, out, runner(stop))
        except UsageError as error:
            return CaseVerdict(case.name, "unusable", str(error))
        except RevatiError as error:
            state = "unusable" if error.exit_code == 3 else "regression"
            return CaseVerdict(case.name, state, f"the case does not run: {error}")
        verdict = judge(case, result, baseline.get(case.name))
        if result["complete"]:
            with lock:
                finished[case.name] = case.digest()
                write_json(state_file, {"state": "running", "finished": finished})
        said(f"{case.name}: finished in {verdict.wall_s:.0f} s")
        return verdict

    write_json(state_file, {"state": "running", "finished": finished})
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(one, case) for case in cases]
        try:
            verdicts = [future.result() for future in futures]
        except KeyboardInterrupt:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    write_json(state_file, {"state": "done", "finished": {}})
    return verdicts


def _finished_before(state_file: Path, said: Callable[[str], None]) -> dict[str, str]:
    if not state_file.exists():
        return {}
    data = read_json(state_file, "state of a check")
    if data.get("state") != "running" or not data.get("finished"):
        return {}
    said(f"{state_file.parent}: going on with an interrupted check")
    return dict(data["finished"])


def exit_code(verdicts: list[CaseVerdict]) -> int:
    states = {verdict.state for verdict in verdicts}
    for state, code in (("unusable", 2), ("regression", 1), ("not-comparable", 3)):
        if state in states:
            return code
    return 0


def update_baseline(path: Path, old: dict[str, Any], verdicts: list[CaseVerdict]) -> list[str]:
    """Writes the new values and returns the difference as lines."""
    entries, lines = dict(old), []
    for verdict in verdicts:
        if verdict.result is None or not verdict.result["complete"]:
            lines.append(f"{verdict.name}: not updated: {verdict.message}")
            continue
        entry = baseline_entry(verdict.result)
        if verdict.name not in old:
            lines.append(f"{verdict.name}: new")
        else:
            rows = [row for row in changes(old[verdict.name]["metrics"], entry["metrics"]) if row.verdict != "same"]
            lines.append(f"{verdict.name}: " + ("no change" if not rows else f"{len(rows)} metrics changed"))
            lines.extend(f"  {row.sentence()}" for row in rows)
        entries[verdict.name] = entry
    write_json(path, {"revati_baseline": BASELINE_VERSION, "cases": entries})
    return lines


def junit(verdicts: list[CaseVerdict]) -> str:
    """JUnit XML: one test a case."""
    failures = sum(verdict.state == "regression" for verdict in verdicts)
    errors = sum(verdict.state in ("unusable", "not-comparable") for verdict in verdicts)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name="revati check" tests="{len(verdicts)}" failures="{failures}" errors="{errors}">',
    ]
    for verdict in verdicts:
        lines.append(f'  <testcase classname="revati" name={quoteattr(verdict.name)} time="{verdict.wall_s:.3f}">')
        if verdict.state != "pass":
            tag = "failure" if verdict.state == "regression" else "error"
            body = escape(_printable("\n".join(_details(verdict))))
            lines.append(f"    <{tag} message={quoteattr(_printable(verdict.message))}>{body}</{tag}>")
        lines.append("  </testcase>")
    return "\n".join([*lines, "</testsuite>", ""])


def _printable(text: str) -> str:
    """Without the control characters that XML forbids (logs of servers have them)."""
    return "".join(char for char in text if char in "\n\t" or ord(char) >= 32)


def _details(verdict: CaseVerdict) -> list[str]:
    lines = [verdict.message] if not verdict.worse else [change.sentence() for change in verdict.worse]
    return lines + [f"cause: {cause}" for cause in verdict.causes]


_MARKS = {
    "pass": "pass",
    "regression": "**regression**",
    "unusable": "unusable input",
    "not-comparable": "not comparable",
}


def markdown(verdicts: list[CaseVerdict]) -> str:
    """The summary for a pull request."""
    lines = ["### Serving performance (Revati)", "", "| case | verdict | largest change |", "|---|---|---|"]
    for verdict in verdicts:
        moved = max(verdict.worse or verdict.changes, key=lambda row: abs(row.relative or 0.0), default=None)
        what = moved.sentence() if moved is not None else verdict.message.split("\n")[0]
        lines.append(f"| {verdict.name} | {_MARKS[verdict.state]} | {_cell(what)} |")
    for verdict in verdicts:
        if verdict.state == "regression":
            lines += ["", f"<details><summary>{verdict.name}</summary>", ""]
            lines += [f"- {_cell(row.sentence())}" for row in verdict.worse] or [f"```\n{verdict.message}\n```"]
            if verdict.causes:
                lines += ["", "Likely causes:", "", *(f"- {_cell(cause)}" for cause in verdict.causes)]
            better = [row for row in verdict.changes if row.verdict == "better"]
            if better:
                lines += ["", "Better:", "", *(f"- {_cell(row.sentence())}" for row in better)]
            lines += ["", "</details>"]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def text(verdicts: list[CaseVerdict]) -> str:
    """The summary for a terminal."""
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.name}: {verdict.state}" + (f": {verdict.message}" if verdict.message else ""))
        if verdict.state == "regression":
            lines += [f"  {row.sentence()}" for row in verdict.worse]
            lines += [f"  cause: {cause}" for cause in verdict.causes]
        lines += [f"  better: {row.sentence()}" for row in verdict.changes if row.verdict == "better"]
    return "\n".join([*lines, ""])
