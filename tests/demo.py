"""Runs the demo as a user would, for tests with the real vLLM."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from revati._demo.scenario import SETTLE_NS
from revati._run import REPEATABLE_MONOTONIC_NS as _STARTED_NS
from revati_coordinator.steps import read_steps

LIMIT_S = 1500


def need_vllm() -> None:
    if shutil.which("vllm") is None:
        pytest.skip("vLLM is not installed here; scripts/test installs it")


def demo_command(folder: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "revati._demo",
        "--work",
        str(folder),
        "--json",
        str(folder / "result.json"),
        *arguments,
    ]


def run_demo(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON of one demo run, whose stderr is kept; fails the test with the demo's own words."""
    need_vllm()
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        demo_command(folder, *arguments),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, **(environment or {})},
    )
    (folder / "stderr.txt").write_text(done.stderr)
    log = folder / "server.log"
    tail = log.read_text(errors="replace")[-4000:] if log.exists() else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-8000:]}\n{tail}"
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def run_traced(folder: Path, *arguments: str) -> dict[str, Any]:
    """The same; what the clock and the virtual GPU did is kept in the folder, for `assert_equal`."""
    steps = folder / "steps"
    steps.mkdir(parents=True)
    result = run_demo(folder, *arguments, "--trace", environment={"REVATI_STEPS": str(steps)})
    return {**result, "folder": folder}


def assert_equal(result: dict[str, Any], reference: dict[str, Any]) -> None:
    """Per-request results of two traced runs; a difference is reported with where their clocks part."""
    if per_request(result) == per_request(reference):
        return
    one, other = (_served(run["folder"]) for run in (reference, result))
    same = next((i for i, lines in enumerate(zip(one, other)) if lines[0] != lines[1]), min(len(one), len(other)))
    begin = max(0, same - 20)
    parted = difflib.unified_diff(one[begin : same + 300], other[begin : same + 300], "reference", "run", n=3)
    pytest.fail("\n".join(["two equal runs differ:", *_figures(reference), *_figures(result), *list(parted)[:150]]))


def _figures(result: dict[str, Any]) -> list[str]:
    """A line for each request, and one for each of the first engine steps."""
    (log,) = (result["folder"] / "steps").glob("*.steps")
    lines = [f"{r['index']}: TTFT {r['ttft_ms']} ms, E2E {r['e2e_ms']} ms" for r in result["requests"]]
    steps = [s for s in read_steps(log) if s.observed_ns >= _STARTED_NS + SETTLE_NS]
    return [
        *lines,
        *(f"{(s.observed_ns - _STARTED_NS) / 1e9:.9f} {s.tokens} tokens, {s.family_ns}" for s in steps[:6]),
    ]


def _served(folder: Path) -> list[str]:
    """The clock's steps from the client's start on, without what is another number in every run."""
    lines = (folder / "stderr.txt").read_text().splitlines()
    timed = [(re.match(r"revati: (\d+\.\d+) ", line), line) for line in lines]
    steps = [line for at, line in timed if at and float(at[1]) >= SETTLE_NS / 1e9]
    return [re.sub(r"pid \d+|tid \d+|0x[0-9a-f]+", "", line) for line in steps]


def per_request(result: dict[str, Any]) -> str:
    """What must be equal in equal runs, as text."""
    return json.dumps(result["requests"], sort_keys=True)
