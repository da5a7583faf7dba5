"""Runs the programs of this folder under emulation and returns what they print.

REVATI_TEST_PYTHON names the Python of another environment, which holds another version of the framework beside this
revati: the tests then run the programs there.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parent / "programs"
PYTHON = os.environ.get("REVATI_TEST_PYTHON") or sys.executable


def need(*modules: str) -> None:
    """Skips the test where the environment lacks a module."""
    for module in modules:
        if not _installed(module):
            pytest.skip(f"{module} is not installed")


def need_v2_runner() -> None:
    """Skips the test where vLLM's second model runner is still the experiment of its first releases."""
    need("vllm")
    code = "import importlib.metadata as m; print(*m.version('vllm').split('.')[:2])"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=180, check=True)
    major, minor = (int(part) for part in done.stdout.split())
    if (major, minor) < (0, 25):
        pytest.skip(f"vLLM {major}.{minor} has the V2 runner as an experiment only")


@functools.cache
def _installed(module: str) -> bool:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    return subprocess.run([PYTHON, "-c", look, module], timeout=180).returncode == 0


def emulate(
    program: str, *arguments: str, gpu: str = "h100-sxm", limit_s: float = 600, predictor: str = "constant:10",
    **variables: str,
) -> dict[str, Any]:  # fmt: skip
    """The JSON object on the last line of `program`'s standard output. Fails with its whole output otherwise."""
    command = [PYTHON, "-m", "revati", "run", "--gpu", gpu, "--policy", "free", "--predictor", predictor, "--quiet",
               "--limit", str(limit_s), "--", PYTHON, str(PROGRAMS / program), *arguments]  # fmt: skip
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit_s + 30)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        pytest.fail(f"{program} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
    return dict(json.loads(lines[-1]))
