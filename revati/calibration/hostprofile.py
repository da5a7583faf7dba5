"""What the host of a measured machine costs: nanoseconds per API call, and per engine step by what the step ran.

The first part comes from the device facts (`facts.jsonl`, step `api_costs`) or from a recording (`revati record`,
medians over a whole run); the second from step traces of real serving runs. It replaces the typical figures that the
policy `modelled` ships with.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from revati._errors import UsageError
from revati._hostprofile import HostProfile
from revati.calibration.compare import bucket
from revati.calibration.rows import read_lines

__all__ = ["host_profile", "usable_profile"]

# Cost name -> (measured call, share of it): two calls timed together count half each.
_CALLS = {
    "launch_ns": ("cudaLaunchKernel 8 arguments", 1.0),
    "graph_launch_ns": ("cudaGraphLaunch 450", 1.0),
    "copy_ns": ("cudaMemcpyAsync h2d pinned 4096", 1.0),
    "event_ns": ("cudaEventRecord", 1.0),
    "malloc_ns": ("cudaMalloc and cudaFree 2097152", 0.5),
    "synchronize_idle_ns": ("cudaStreamSynchronize idle", 1.0),
    "wake_up_ns": ("launch to wake-up beyond kernel time, blocking event synchronize", 1.0),
}
_CLOCK = "clock (cost of measuring)"


def host_profile(results: Path) -> dict[str, Any]:
    """The profile of one machine from a folder of results, or the calls of one recording (.parquet).

    Raises UsageError if there are neither facts nor traces nor recorded calls of a real card.
    """
    if results.suffix == ".parquet":
        from revati.recording.training import recorded_host_calls

        calls, session = recorded_host_calls(results)
        return {"calls": calls, "steps": {}, "machine": _machine_of(session)}
    profile = {"calls": _calls(results), "steps": _steps(results), "machine": _machine(results)}
    if not profile["calls"] and not profile["steps"]:
        raise UsageError(f"{results}: neither API costs (facts.jsonl) nor step traces (*/steps/engine-*.jsonl) in it")
    return profile


def usable_profile(measured: dict[str, Any], base: HostProfile) -> str:
    """`base` with the measured costs of CUDA calls, as the YAML of a host profile.

    The framework's own work (steps, requests, dispatch of a launch) stays that of `base`: `scripts/host-profile` takes
    it on the same machine, under the virtual device. A launch there is dispatch alone, so the call is added. Raises
    UsageError if no call was measured.
    """
    calls = measured["calls"]
    if not calls:
        raise UsageError("no CUDA call was measured: facts.jsonl holds them (scripts/gpu/facts)")
    costs = dict(base.costs_ns)
    costs["launch"] += calls.get("launch_ns", 0)
    for kind in ("graph_launch", "copy", "event", "malloc"):
        costs[kind] = calls.get(f"{kind}_ns", costs[kind])
    machine = measured["machine"]
    profile = {
        "name": f"{base.name}+calls",
        "taken_on": f"{machine.get('cpu') or '?'}, {machine.get('gpu') or '?'}; framework: {base.taken_on}",
        "how": f"revati calibrate host; framework: {base.how}",
        "costs_ns": costs,
    }
    return yaml.safe_dump(profile, sort_keys=False, width=118)


def _calls(results: Path) -> dict[str, int]:
    """Nanoseconds by cost name, less what reading the clock takes."""
    costs: dict[str, float] = {}
    for path in sorted(results.rglob("facts.jsonl")):
        for record in read_lines(path):
            if record.get("kind") == "row" and record.get("key") == "api_costs" and not record.get("dry"):
                costs = {c["call"]: float(c["ns_p50"]) for c in record["calls"]}
    clock = costs.get(_CLOCK, 0.0)
    return {n: max(0, round((costs[call] - clock) * share)) for n, (call, share) in _CALLS.items() if call in costs}


def _steps(results: Path) -> dict[str, dict[str, int]]:
    """Median nanoseconds of schedule, update, execute and sample by kind of step."""
    samples: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(results.glob("*/steps/engine-*.jsonl")):
        for row in _lines(path):
            kind = _kind(len(row["decode"]), sum(q for q, _ in row["prefill"]))
            begin, scheduled, output, end = row["t"]
            samples[kind]["schedule_ns"].append(scheduled - begin)
            samples[kind]["update_ns"].append(end - output)
    for path in sorted(results.glob("*/steps/worker-*.jsonl")):
        for row in _lines(path):
            # The worker knows the tokens of a step only: up to 256 of them are taken for decodes.
            kind = _kind(row["tokens"], 0) if row["tokens"] <= 256 else _kind(0, row["tokens"])
            samples[kind]["execute_ns"].append(row["host_ns"][0])
            samples[kind]["sample_ns"].append(row["host_ns"][1])
    return {
        kind: {name: round(statistics.median(values)) for name, values in sorted(parts.items())}
        for kind, parts in sorted(samples.items())
    }


def _kind(decodes: int, prompt_tokens: int) -> str:
    return f"prefill of {bucket(prompt_tokens)}" if prompt_tokens else f"decode of {bucket(decodes)}"


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _machine(results: Path) -> dict[str, Any]:
    sessions: Sequence[dict[str, Any]] = [
        r for p in sorted(results.rglob("facts.jsonl")) for r in read_lines(p) if r.get("kind") == "session"
    ]
    if not sessions:
        return {}
    return _machine_of(sessions[-1])


def _machine_of(session: dict[str, Any]) -> dict[str, Any]:
    return {key: session.get(key) for key in ("cpu", "cpus", "kernel", "python", "time")} | {
        "gpu": session["gpu"].get("name")
    }
