"""The narrow seam between experiments and emulation: run a session inside a clock, bounded in real time.

`NativeRunner` runs it on the host's own clock (a real GPU, or a server that needs none); `EmulatedRunner` puts the
same session under `revati run`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from revati import UsageError
from revati._serverlog import explain
from revati.experiments.case import Case
from revati.experiments.emulated import EmulatedPlan
from revati.experiments.results import read_json, write_json
from revati.experiments.session import SessionPlan
from revati.experiments.statistics import load_span, load_statistics
from revati.experiments.steps import load_steps

__all__ = ["EmulatedRunner", "Limits", "NativeRunner", "RunOutcome", "Runner"]

_POLL_S = 0.05
_STOP_WALL_S = 15.0


@dataclass(frozen=True)
class Limits:
    """Bounds in real time."""

    wall_s: float
    ready_wall_s: float
    stall_wall_s: float | None  # None: the client shows no progress that could be watched


@dataclass
class RunOutcome:
    """How a session ended."""

    reason: str  # "finished", "interrupted", "limit", "failed"
    message: str = ""
    wall_s: float = 0.0
    ready_wall_s: float | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)  # of the coordinator; empty without emulation
    steps: list[dict[str, Any]] = field(default_factory=list)  # of the engines, see revati.experiments.steps


class Runner(Protocol):
    """Runs sessions; `kind` goes into the result, and results of different kinds are not comparable."""

    kind: str

    def run(self, case: Case, plan: SessionPlan, work: Path, limits: Limits) -> RunOutcome: ...


class NativeRunner:
    """The host's own clock and devices. `stop` ends a run from another thread."""

    kind = "native"

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.stop = stop

    def run(self, case: Case, plan: SessionPlan, work: Path, limits: Limits) -> RunOutcome:
        plan_file = work / "session.json"
        plan.save(plan_file)
        return supervise(session_command(plan_file), plan, work, limits, self.stop)


class EmulatedRunner:
    """Server and clients on one virtual clock, with virtual GPUs. `stop` ends a run from another thread."""

    kind = "emulated"

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.stop = stop

    def run(self, case: Case, plan: SessionPlan, work: Path, limits: Limits) -> RunOutcome:
        plan_file, statistics = work / "session.json", work / "statistics.json"
        plan.save(plan_file)
        statistics.unlink(missing_ok=True)
        snapshots = work / "snapshots"
        shutil.rmtree(snapshots, ignore_errors=True)
        snapshots.mkdir()
        steps = work / "steps"
        shutil.rmtree(steps, ignore_errors=True)
        steps.mkdir()
        device, predictor = case.data["device"], case.data["predictor"]
        emulated = EmulatedPlan(
            gpu=f"{device['gpu']}:{device['count']}",
            policy=case.data["host_time"]["policy"],
            order=case.data["host_time"]["order"],
            host_profile=case.host_profile,
            predictor=predictor["pack"] or "auto",
            scale=dict(predictor["scale"]),
            seed=case.seed,
            oracle=_oracle_file(case, work),
            routing=case.data["oracle"]["routing"],
            session=session_command(plan_file),
            server=plan.server.command,
            snapshots=str(snapshots),
            steps=str(steps),
            statistics=str(statistics),
        )
        run_file = work / "run.json"
        write_json(run_file, asdict(emulated))
        command = [sys.executable, "-m", "revati.experiments.emulated", str(run_file)]
        outcome = supervise(command, plan, work, limits, self.stop)
        if statistics.exists():
            raw = read_json(statistics, "statistics of a run")
            outcome.statistics = load_statistics(raw)
            if outcome.statistics:
                outcome.steps = load_steps(steps, *load_span(raw))
        return outcome


def _oracle_file(case: Case, work: Path) -> str | None:
    """The token oracle's configuration of the case: the user's file, then the case's own keys."""
    section = case.data["oracle"]
    lines = []
    if section["file"] is not None:
        path = case.path(section["file"])
        try:
            lines.append(path.read_text(encoding="utf-8").rstrip("\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"case '{case.name}': oracle.file {path}: {error}") from None
    if section["acceptance"] is not None:
        lines.append(f"accept {section['acceptance']:g}")
    if not lines:
        return None
    target = work / "oracle.conf"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(target)


def session_command(plan_file: Path) -> list[str]:
    return [sys.executable, "-m", "revati.experiments.session", str(plan_file)]


def supervise(
    command: list[str], plan: SessionPlan, work: Path, limits: Limits, stop: threading.Event | None = None
) -> RunOutcome:
    """Runs the command in a process group of its own and ends it when a limit is reached; never raises for that.

    Ctrl-C ends the session too and gives the outcome 'interrupted', so that the partial result can be written.
    """
    events_file = Path(plan.events)
    events_file.write_text("", encoding="utf-8")
    watched = [work / "requests.jsonl", work / "samples.jsonl", events_file]
    started = time.monotonic()
    with (work / "run.log").open("wb") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    outcome = RunOutcome("finished")
    sizes: list[int] = []
    progress_at = started
    try:
        while child.poll() is None:
            time.sleep(_POLL_S)
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            now = time.monotonic()
            events = read_events(events_file)
            ready = any(event["event"] == "ready" for event in events)
            if ready and outcome.ready_wall_s is None:
                outcome.ready_wall_s = now - started
                progress_at = now
            fresh_sizes = [path.stat().st_size if path.exists() else 0 for path in watched]
            if fresh_sizes != sizes:
                sizes, progress_at = fresh_sizes, now
            message = _limit_reached(limits, ready, now - started, now - progress_at, plan)
            if message:
                outcome.reason, outcome.message = "limit", message
                break
    except KeyboardInterrupt:
        outcome.reason, outcome.message = "interrupted", "interrupted by the user"
    finally:
        _end(child)
    outcome.wall_s = time.monotonic() - started
    outcome.events = read_events(events_file)
    failed = next((event for event in outcome.events if event["event"] == "failed"), None)
    if outcome.reason == "finished" and (failed is not None or child.returncode != 0):
        outcome.reason = "failed"
        if failed is not None:
            outcome.message = str(failed["message"])
            said = explain(Path(failed["log"])) if "log" in failed else ""
        else:
            outcome.message = f"the run ended with code {child.returncode}"
            said = explain(work / "run.log")
        if said:
            outcome.message += "; its log says:\n" + said
    return outcome


def _limit_reached(limits: Limits, ready: bool, wall_s: float, idle_s: float, plan: SessionPlan) -> str:
    if not ready and wall_s > limits.ready_wall_s:
        return (
            f"the server did not answer {plan.ready_url} within {limits.ready_wall_s:g} s of real time "
            f"(limits.ready_wall_s); its log says:\n{explain(Path(plan.server.log))}"
        )
    if wall_s > limits.wall_s:
        return f"the run took more than {limits.wall_s:g} s of real time (limits.wall_s)"
    if ready and limits.stall_wall_s is not None and idle_s > limits.stall_wall_s:
        return f"nothing happened for {limits.stall_wall_s:g} s of real time (limits.stall_wall_s)"
    return ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the group: TERM, time to clean up, KILL."""
    for number, patience_s in ((signal.SIGTERM, _STOP_WALL_S), (signal.SIGKILL, _STOP_WALL_S)):
        if child.poll() is not None:
            break
        try:
            # The session ends its own children; the group is for those that it could not.
            os.kill(child.pid, number) if number == signal.SIGTERM else os.killpg(child.pid, number)
            child.wait(patience_s)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # whoever is left of the group


def read_events(path: Path) -> list[dict[str, Any]]:
    """Events written so far; a torn last line is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line]
