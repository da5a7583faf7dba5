"""torch and Triton programs on the virtual device, with kernels of exactly 2 us."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parent / "torch_programs"


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch (comes with vLLM)")
@pytest.mark.parametrize("name", ["basics", "triton_kernel"])
def test_program(name: str, revati: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    command = [sys.executable, str(PROGRAMS / f"{name}.py")]
    done = revati(
        *("run", "--quiet", "--gpu", "h100-sxm", "--policy", "free", "--predictor", "constant:2", "--", *command),
        timeout=300,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "passed"), done.stdout + done.stderr
