"""One case from file to result: plan, run inside the clock, read what the clients wrote, compute, store."""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from revati import RunError, __version__
from revati._hostprofile import load_host_profile
from revati.experiments import launch
from revati.experiments.case import Case
from revati.experiments.drivers.client import ClientPlan
from revati.experiments.drivers.external import DriverReport, client_command, read_report
from revati.experiments.drivers.records import RequestRecord, read_records
from revati.experiments.metrics import compute, gpu_metrics, server_metrics
from revati.experiments.results import EMBEDDED_REQUESTS_MAX, RESULT_VERSION, write_json
from revati.experiments.runner import Limits, Runner, RunOutcome
from revati.experiments.session import ProcessPlan, SessionPlan
from revati.experiments.steps import EMBEDDED_STEPS_MAX, step_metrics
from revati_predictors.results import propagate

__all__ = ["run_case"]


def run_case(case: Case, out: Path, runner: Runner) -> dict[str, Any]:
    """Runs the case and writes out/result.json; returns the result.

    A run that ended early gives a result marked incomplete. RunError if it failed or no request finished at all.
    """
    version = launch.installed_version(case)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("requests.jsonl", "samples.jsonl", "client.json", "server.log", "client.log", "result.json"):
        (out / name).unlink(missing_ok=True)
    write_json(out / "case.json", case.data)
    port = case.data["server"]["port"] or launch.free_port()
    plan = _session_plan(case, out.resolve(), port)
    limits = Limits(
        wall_s=case.limits["wall_s"],
        ready_wall_s=case.limits["ready_wall_s"],
        stall_wall_s=case.limits["stall_wall_s"] if case.workload["driver"] == "revati" else None,
    )
    started = time.time()
    outcome = runner.run(case, plan, out.resolve(), limits)
    result = collect(case, out, outcome, runner.kind)
    result["environment"] |= {"framework_version": version, "started_utc": _utc(started)}
    write_json(out / "result.json", result)
    if outcome.reason == "failed" or result["metrics"]["requests.ok"] == 0:
        message = outcome.message or "; ".join(["no request finished", *result["notes"]])
        raise RunError(f"case '{case.name}': {message}")
    return result


def _session_plan(case: Case, out: Path, port: int) -> SessionPlan:
    url = f"http://127.0.0.1:{port}"
    data = case.data
    log = str(out / "client.log")
    if case.workload["driver"] == "revati":
        client = ClientPlan(
            case=data,
            base=str(case.base),
            url=url,
            model=_served_name(case),
            dialect=_dialect(case),
            out=str(out),
        )
        (out / "client-plan.json").write_text(json.dumps(asdict(client)), encoding="utf-8")
        command = [sys.executable, "-m", "revati.experiments.drivers.client", str(out / "client-plan.json")]
        process = ProcessPlan(command, log)
    else:
        process = client_command(case, out, url, _served_name(case))
    return SessionPlan(
        server=ProcessPlan(launch.server_command(case, port), str(out / "server.log"), dict(data["server"]["env"])),
        ready_url=url + data["server"]["ready_path"],
        clients=[process],
        events=str(out / "events.jsonl"),
    )


def _dialect(case: Case) -> str:
    section = case.data["framework"]
    return str(section["dialect"] or ("openai" if section["name"] == "command" else section["name"]))


def _served_name(case: Case) -> str:
    """The model name in requests: vLLM and SGLang serve under the path they were started with."""
    name = case.data["model"]["served_name"]
    return str(name) if name is not None else (launch.model_path(case) or "model")


def collect(case: Case, out: Path, outcome: RunOutcome, kind: str) -> dict[str, Any]:
    """The result from what a run left in its directory, complete or not."""
    report = DriverReport({}, out / "requests.jsonl")
    if case.workload["driver"] != "revati":
        report = read_report(case, out)
    requests_file = report.requests_file
    metrics = compute(case, read_records(requests_file), report.duration_ns)
    samples = _samples(out / "samples.jsonl")
    metrics |= server_metrics(samples)
    metrics |= gpu_metrics(case, outcome.statistics, metrics["duration_s"], metrics.get("tokens.output", 0))
    metrics |= step_metrics(outcome.steps)
    summary = _client_summary(out)
    reason, message = outcome.reason, outcome.message
    if reason == "finished" and summary.get("reason") not in (None, "finished"):
        reason, message = "limit", f"the load was stopped: {summary['reason']} (limits.virtual_s)"
        outcome.reason, outcome.message = reason, message
    count = int(metrics["requests.sent"])
    embedded = count <= EMBEDDED_REQUESTS_MAX
    return {
        "revati_result": RESULT_VERSION,
        "case": case.data,
        "digest": case.digest(),
        "complete": reason == "finished",
        "outcome": {
            "reason": reason,
            "message": message,
            "wall_s": outcome.wall_s,
            "ready_wall_s": outcome.ready_wall_s,
        },
        "environment": {"revati": __version__, "python": platform.python_version(), "host": platform.platform()},
        "identity": identity(case, kind, outcome.statistics),
        "metrics": metrics,
        "intervals": intervals(metrics, outcome.statistics),
        "statistics": outcome.statistics,
        "samples": samples,
        "steps": outcome.steps[:EMBEDDED_STEPS_MAX],
        "requests": sorted_records(requests_file) if embedded else [],
        "requests_file": None if embedded else requests_file.name,
        "driver_report": report.summary,
        "notes": notes(case, metrics, outcome, requests_file),
    }


def identity(case: Case, kind: str, statistics: dict[str, Any]) -> dict[str, Any]:
    """What has to be equal between two results, else their numbers answer different questions."""
    return {
        "clock": kind,
        "policy": case.data["host_time"]["policy"] if kind == "emulated" else "real",
        "order": case.data["host_time"]["order"] if kind == "emulated" else None,
        "host_profile": _host_profile(case) if kind == "emulated" else None,
        "pack": statistics.get("pack", case.data["predictor"]["pack"]),
        "seed": case.seed,
        "device": case.data["device"],
        "workload": case.workload,
    }


def _host_profile(case: Case) -> str | None:
    if case.data["host_time"]["policy"] != "modelled":
        return None
    return load_host_profile(case.host_profile).identity


def intervals(metrics: dict[str, float], statistics: dict[str, Any]) -> dict[str, list[float]]:
    """Latency and throughput metrics with the predictor's relative interval on the GPU's busy time.

    A first-order statement: every latency is taken to scale with GPU time, a rate with the share of the load in which
    the GPUs were busy (the rest waited for requests); queueing is not run again.
    """
    interval = statistics.get("interval")
    if not interval:
        return {}
    low, high = interval
    groups = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "normalised_ms")
    busy = metrics.get("gpu.busy_ratio", 1.0)
    found = {}
    for name, value in metrics.items():
        group = name.removeprefix("class.").split(".")[-2:][0]
        if group in groups:
            found[name] = [value * low, value * high]
        elif group == "throughput":
            found[name] = list(propagate(value, (low, high), busy, inverse=True)[1:])
    return found


def notes(case: Case, metrics: dict[str, float], outcome: RunOutcome, requests_file: Path) -> list[str]:
    """Warnings: what to read before trusting the numbers; that predictions lack measurements comes first."""
    lines = list(outcome.statistics.get("notes", []))
    if outcome.reason != "finished":
        lines.append(f"partial result: {outcome.message.splitlines()[0] if outcome.message else outcome.reason}")
    if metrics.get("requests.failed", 0) > 0:
        first = next((item for item in read_records(requests_file) if not item.ok), None)
        lines.append(
            f"{metrics['requests.failed']:g} requests failed; the first, {first.id if first else '?'}: "
            f"{first.error if first else '?'}"
        )
    if metrics.get("send_lag_ms.max", 0) > 5:
        lines.append(f"the client sent a request {metrics['send_lag_ms.max']:.1f} ms after it was due")
    short, synthetic, uncounted = 0, 0, 0
    for record in read_records(requests_file):
        short += record.ok and record.output_tokens != record.output_tokens_asked
        synthetic += record.synthetic_history
        uncounted += record.ok and record.prompt_tokens is None
    if short:
        lines.append(f"{short} answers did not have the length that was asked for")
    if synthetic:
        lines.append(f"{synthetic} calls had a made-up history (no token ids in answers): too few prefix hits")
    return lines


def sorted_records(path: Path) -> list[dict[str, Any]]:
    """Records by class, session and call: the order of completion is not part of a result."""
    records: list[RequestRecord] = sorted(read_records(path), key=lambda item: (item.klass, item.session, item.call))
    return [asdict(record) for record in records]


def _samples(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


def _client_summary(out: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads((out / "client.json").read_text(encoding="utf-8"))
        return summary
    except (OSError, ValueError):
        return {}


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
