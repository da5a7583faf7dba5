"""The first framework version in which a case regresses: the same case over a list of environments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revati import RevatiError, UsageError
from revati.experiments.bench import run_case
from revati.experiments.case import Case
from revati.experiments.check import judge
from revati.experiments.runner import Runner

__all__ = ["BisectOutcome", "Environment", "bisect", "parse_environments"]


@dataclass(frozen=True)
class Environment:
    """A framework version: its name and the python of its environment."""

    name: str
    python: str


@dataclass
class BisectOutcome:
    """What was found; `first_bad` is None when no version regresses."""

    sentence: str
    first_bad: str | None
    runs: dict[str, str]  # version -> verdict


def parse_environments(texts: list[str]) -> list[Environment]:
    """NAME=PYTHON, oldest first; UsageError if one is not there."""
    environments = []
    for text in texts:
        name, sep, python = text.partition("=")
        if not sep or not name or not python:
            raise UsageError(f"--env {text}: write it as NAME=PYTHON, such as 0.25.1=envs/a/bin/python")
        path = Path(python) / "bin" / "python" if Path(python).is_dir() else Path(python)
        if not path.exists():
            raise UsageError(f"--env {text}: {path} does not exist")
        environments.append(Environment(name, str(path.absolute())))
    if len(environments) < 2:
        raise UsageError("bisect needs two environments or more: a good one first")
    if len({environment.name for environment in environments}) < len(environments):
        raise UsageError("bisect needs a different name for each environment")
    return environments


def bisect(
    case: Case,
    environments: list[Environment],
    work: Path,
    runner: Runner,
    *,
    linear: bool,
    said: Callable[[str], None],
) -> BisectOutcome:
    """Judges versions against the first one; halves the range, or with `linear` looks at each."""
    runs: dict[str, str] = {}
    first = environments[0]
    reference = _run(case, first, work, runner)
    runs[first.name] = "good"
    said(f"{first.name}: taken as good")
    why: dict[str, str] = {}

    def is_bad(index: int) -> bool:
        environment = environments[index]
        if environment.name not in runs:
            verdict, message = _judge(case, environment, work, runner, reference)
            runs[environment.name], why[environment.name] = verdict, message
            said(f"{environment.name}: {verdict}" + (f": {message}" if message else ""))
        return runs[environment.name] == "bad"

    low, high = 0, len(environments) - 1
    if linear:
        bad = [index for index in range(1, len(environments)) if is_bad(index)]
        found = bad[0] if bad else None
    elif not is_bad(high):
        found = None
    else:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_bad(middle) else (middle, high)
        found = high
    if found is None:
        return BisectOutcome(f"no regression from {first.name} to {environments[-1].name}", None, runs)
    name = environments[found].name
    sentence = f"{name} is the first that regresses (after {environments[found - 1].name}): {why[name]}"
    return BisectOutcome(sentence, name, runs)


def _run(case: Case, environment: Environment, work: Path, runner: Runner) -> dict[str, Any]:
    data = copy.deepcopy(case.data)
    data["framework"] |= {"python": environment.python, "version": None}
    if data["framework"]["name"] == "command":
        # A command names its interpreter itself.
        data["server"]["command"] = [
            word.replace("{framework}", environment.python) for word in data["server"]["command"]
        ]
    return run_case(Case(data, case.base), work / environment.name, runner)


def _judge(
    case: Case, environment: Environment, work: Path, runner: Runner, reference: dict[str, Any]
) -> tuple[str, str]:
    try:
        result = _run(case, environment, work, runner)
    except UsageError:
        raise
    except RevatiError as error:
        return "bad", f"the case does not run: {str(error).splitlines()[0]}"
    verdict = judge(case, result, reference)
    if verdict.state == "not-comparable":
        raise UsageError(f"{environment.name}: not comparable: {verdict.message}")
    return ("bad", verdict.message) if verdict.state == "regression" else ("good", "")
