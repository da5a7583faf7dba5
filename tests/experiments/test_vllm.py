"""The gate on the real vLLM: equal numbers from separate starts, and each change found with its cause. Many minutes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.usefixtures("emulation")]

Revati = Callable[..., subprocess.CompletedProcess[str]]

ARGUMENTS = ["--load-format", "dummy", "--enforce-eager", "--max-model-len", "8192"]
ARGUMENTS += ["--hf-overrides", '{"num_hidden_layers": 4}', "--max-num-batched-tokens", "8192"]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a case and the baseline of one run of it."""
    from revati.models import write_model

    program = shutil.which("vllm") or str(Path(sys.executable).parent / "vllm")
    if not Path(program).exists():
        pytest.skip("vLLM is not installed")
    folder = tmp_path_factory.mktemp("gate")
    write_model("llama-3.1-8b", folder / "model")
    chat: dict[str, Any] = {
        "arrival": {"kind": "gamma", "rate_per_s": 100, "burstiness": 0.5},
        "input_tokens": {"kind": "uniform", "low": 1000, "high": 4000},
        "output_tokens": 12,
        "prefix": {"tokens": 800},
    }
    case = {
        "revati_case": 1,
        "name": "gate",
        "framework": {"name": "vllm", "executable": program},
        "model": {"path": "model"},
        "server": {"args": ARGUMENTS},
        "host_time": {"policy": "free"},
        "workload": {"requests": 16, "warmup_requests": 2, "classes": {"chat": chat}},
        "slo": {"ttft_ms": 200, "tpot_ms": 20},
        # A kernel a little slower can move the ends of steps so that requests wait less: judge it by itself, too.
        "tolerances": {"gpu_time.attention_ms": {"relative": 0.02}},
        "limits": {"ready_wall_s": 900, "wall_s": 1200},
    }
    (folder / "gate.yaml").write_text(json.dumps(case))
    return folder


def check(revati: Revati, gate: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    common = ["check", str(gate / "gate.yaml"), "--baseline", str(gate / "baseline.json"), "--work", str(gate / "work")]
    return revati(*common, *arguments, timeout=1500)


def test_separate_starts_give_the_same_numbers(revati: Revati, gate: Path) -> None:
    done = check(revati, gate, "--update")
    assert done.returncode == 0, done.stderr
    first = json.loads((gate / "work" / "gate" / "result.json").read_text())
    done = check(revati, gate)
    assert done.returncode == 0, done.stdout
    second = json.loads((gate / "work" / "gate" / "result.json").read_text())
    assert first["requests"] == second["requests"]
    assert first["metrics"] == second["metrics"]


@pytest.mark.parametrize(
    ("change", "metric", "cause"),
    [
        (f"server.args={json.dumps([*ARGUMENTS[:-1], '512'])}", "ttft_ms", "--max-num-batched-tokens 8192 -> 512"),
        pytest.param(
            f"server.args={json.dumps([*ARGUMENTS, '--no-enable-prefix-caching'])}",
            "ttft_ms",
            "prefix-cache hit ratio",
            marks=pytest.mark.extended,
        ),
        pytest.param(
            "predictor.scale={attention: 1.05}",
            "gpu_time.attention_ms",
            "GPU time in attention",
            marks=pytest.mark.extended,
        ),
    ],
)
def test_a_change_is_found_with_its_cause(revati: Revati, gate: Path, change: str, metric: str, cause: str) -> None:
    if not (gate / "baseline.json").exists():
        assert check(revati, gate, "--update").returncode == 0
    done = check(revati, gate, "--set", change)
    assert done.returncode == 1, done.stdout + done.stderr
    assert metric in done.stdout
    assert cause in done.stdout
