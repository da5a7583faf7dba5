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
@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("basics", "h100-sxm"),
        ("triton_kernel", "h100-sxm"),
        # One for each compute capability of the catalogue.
        *(("every_gpu", gpu) for gpu in ("a100-sxm", "a10g", "l40s", "h100-sxm", "b200", "rtx-5090")),
    ],
)
def test_program(name: str, gpu: str, revati: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    command = [sys.executable, str(PROGRAMS / f"{name}.py")]
    done = revati(
        *("run", "--quiet", "--gpu", gpu, "--policy", "free", "--predictor", "constant:2", "--", *command),
        timeout=300,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "passed"), done.stdout + done.stderr
