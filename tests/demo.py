"""Runs the demo as a user would, for tests with the real vLLM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def run_demo(folder: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of one demo run; fails the test with the demo's own words."""
    need_vllm()
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        demo_command(folder, *arguments), capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ}
    )
    log = folder / "server.log"
    tail = log.read_text(errors="replace")[-4000:] if log.exists() else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{tail}"
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def per_request(result: dict[str, Any]) -> str:
    """What must be equal in equal runs, as text."""
    return json.dumps(result["requests"], sort_keys=True)
