"""Repeatability and exactness with the real vLLM (docs/internals.md, invariants 3 and 4)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo import per_request, run_demo

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LOAD = ("--quick", "--requests", "6", "--output-tokens", "48")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_demo(tmp_path_factory.mktemp("reference"), *LOAD)


def _spin() -> None:
    while True:
        pass


@pytest.fixture
def hogs() -> Iterator[None]:
    """Two processes that keep two cores busy."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_spin, daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    yield
    for process in processes:
        process.kill()
        process.join()


def test_a_second_run_beside_hogs_is_identical(reference: dict[str, Any], hogs: None, tmp_path: Path) -> None:
    assert per_request(run_demo(tmp_path, *LOAD)) == per_request(reference)


def test_a_slow_predictor_changes_nothing(reference: dict[str, Any], tmp_path: Path) -> None:
    """The 250 ms test: host time spent in Revati itself never enters virtual time."""
    assert per_request(run_demo(tmp_path, *LOAD, "--predictor-delay-ms", "250")) == per_request(reference)


def test_constant_durations_are_exact(reference: dict[str, Any], tmp_path: Path) -> None:
    """With every kernel at 40 us, each inter-token time is a whole number of kernels to the client's microsecond."""
    result = run_demo(tmp_path, *LOAD, "--predictor", "constant:40")
    assert per_request(result) != per_request(reference), "the comparisons above can fail"
    intervals = [value for record in result["requests"] for value in record["itl_ms"]]
    assert len(intervals) > 200
    for value in intervals:
        assert value / 0.040 == pytest.approx(round(value / 0.040), abs=0.001 / 0.040)
