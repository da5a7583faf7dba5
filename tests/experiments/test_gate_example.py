"""The example of docs/check.md on the real vLLM: it repeats, and each of its changes is found with its cause."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import busy_processes

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.usefixtures("emulation")]

Revati = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gate.yaml"
ARGUMENTS: list[str] = yaml.safe_load(EXAMPLE.read_text())["server"]["args"]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example, its model and the baseline of one run of it."""
    from revati.models import write_model

    folder = tmp_path_factory.mktemp("gate")
    write_model("llama-3.1-8b", folder / "models" / "llama-3.1-8b")
    (folder / "examples").mkdir()
    shutil.copy(EXAMPLE, folder / "examples")
    return folder


def check(revati: Revati, gate: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("vllm") or str(Path(sys.executable).parent / "vllm")
    common = ["--baseline", str(gate / "baseline.json"), "--work", str(gate / "work")]
    common += ["--set", f"framework.executable={program}", "--set", "limits.ready_wall_s=900"]
    return revati("check", str(gate / "examples" / "gate.yaml"), *common, *arguments, timeout=1500)


def update_once(revati: Revati, gate: Path) -> list[dict[str, Any]]:
    """Writes the baseline; returns the requests behind it."""
    kept = gate / "requests.json"
    if not kept.exists():
        assert check(revati, gate, "--update").returncode == 0
        kept.write_text(json.dumps(requests(gate)))
    baseline: list[dict[str, Any]] = json.loads(kept.read_text())
    return baseline


def requests(gate: Path) -> list[dict[str, Any]]:
    """Every request of the last check with all its times."""
    (result,) = (gate / "work").glob("*/result.json")
    found: list[dict[str, Any]] = json.loads(result.read_text())["requests"]
    assert len(found) == 40
    return found


def server(*arguments: str) -> str:
    return f"server.args={json.dumps([*ARGUMENTS, *arguments])}"


def test_the_unchanged_case_repeats_beside_busy_processes(revati: Revati, gate: Path) -> None:
    """Host time modelled, compilation, dense arrivals: all that depends on order within one instant."""
    first = update_once(revati, gate)
    with busy_processes():
        again = check(revati, gate)
    assert again.returncode == 0, again.stdout + again.stderr
    assert requests(gate) == first


@pytest.mark.parametrize(
    ("change", "metric", "cause"),
    [
        (server("--max-num-batched-tokens", "512"), "ttft_ms.p50", "mean queueing time"),
        (server("--no-enable-prefix-caching"), "itl_ms.p99", "prefix-cache hit ratio"),
        (server("--enforce-eager"), "itl_ms.p50", "with --enforce-eager"),
        ("predictor.scale={attention: 1.05}", "gpu_time.attention_ms", "predictor.scale.attention: None -> 1.05"),
    ],
)
def test_a_change_is_found_with_its_cause(revati: Revati, gate: Path, change: str, metric: str, cause: str) -> None:
    update_once(revati, gate)
    done = check(revati, gate, "--set", change)
    assert done.returncode == 1, done.stdout + done.stderr
    assert metric in done.stdout
    assert cause in done.stdout
