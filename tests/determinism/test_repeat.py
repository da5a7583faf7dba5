"""Repeatability and exactness with the real vLLM (docs/internals.md, invariants 3 and 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from revati_coordinator.steps import read_steps
from tests.conftest import busy_processes
from tests.demo import assert_equal, run_demo, run_traced

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
KERNEL_US = 40
DIGIT_NS = 1000  # the client keeps seconds to the microsecond
LOAD = ("--quick", "--requests", "6", "--output-tokens", "48", "--policy", "free")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_traced(tmp_path_factory.mktemp("reference"), *LOAD)


def test_a_second_run_beside_hogs_is_identical(reference: dict[str, Any], tmp_path: Path) -> None:
    with busy_processes():
        again = run_traced(tmp_path, *LOAD)
    assert_equal(again, reference)


def test_a_slow_predictor_changes_nothing(reference: dict[str, Any], tmp_path: Path) -> None:
    """The 250 ms test: host time spent in Revati itself never enters virtual time."""
    assert_equal(run_traced(tmp_path, *LOAD, "--predictor-delay-ms", "250"), reference)


def test_modelled_host_time_is_as_repeatable(tmp_path: Path) -> None:
    """In eager mode the profile's host is slower than the GPU: the engine never waits for it, and lets others on."""
    load = (*LOAD, "--policy", "modelled")
    alone = run_traced(tmp_path / "alone", *load)
    with busy_processes():
        beside = run_traced(tmp_path / "beside", *load)
    assert_equal(beside, alone)


def test_the_client_sees_the_modelled_step_and_prefill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant kernels, requests far apart: TPOT is the GPU time of a decode step, TTFT that of the prefill, exactly.

    The model's stream carries the kernels of a step one after another; the sampled token is copied out by a second
    stream, and the client has it when that copy ends.
    """
    steps_folder = tmp_path / "steps"
    steps_folder.mkdir()
    monkeypatch.setenv("REVATI_STEPS", str(steps_folder))
    result = run_demo(
        tmp_path / "demo", "--quick", "--requests", "4", "--output-tokens", "48", "--rate", "0.02",
        "--policy", "free", "--predictor", f"constant:{KERNEL_US}",
    )  # fmt: skip
    (log,) = steps_folder.glob("*.steps")
    steps = [step for step in read_steps(log) if step.sequences == 1]
    prefills = [step for step in steps if not step.decodes][-4:]
    decodes = [step for step in steps if step.decodes and step.index > prefills[0].index]
    assert len(decodes) == 4 * 47
    for i, (record, prefill) in enumerate(zip(result["requests"], prefills)):
        assert record["ttft_ms"] * 1e6 == pytest.approx(prefill.streams[1].last_ns - prefill.observed_ns, abs=DIGIT_NS)
        # From the announcement of one batch to the next is one step's work, in another cut than from token to token:
        # the kernels behind the copy of a token and those before the next announcement belong to the later interval.
        cuts = [prefill, *decodes[47 * i : 47 * i + 46]]
        modelled_ns = [step.streams[0].launches * KERNEL_US * 1000 for step in cuts]
        assert [ms * 1e6 for ms in record["itl_ms"]] == pytest.approx(modelled_ns, abs=DIGIT_NS)
        assert record["tpot_ms"] == pytest.approx(sum(record["itl_ms"]) / 47, abs=DIGIT_NS / 1e6)
        # A step with a new block of the KV cache has two kernels more.
        assert set(modelled_ns) == {375 * KERNEL_US * 1000, 377 * KERNEL_US * 1000}
