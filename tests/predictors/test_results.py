"""Shares, intervals and the warning that a result begins with."""

from __future__ import annotations

import pytest

from revati_predictors.results import (
    coverage_warning,
    family_shares,
    propagate,
    source_shares,
    statement,
    time_factors,
)
from revati_predictors.wire import FAMILY


def _time(**families: tuple[int, int, int, int]) -> list[list[int]]:
    rows = [[0, 0, 0, 0] for _ in FAMILY]
    for name, row in families.items():
        rows[FAMILY[name]] = list(row)
    return rows


def test_shares_add_up() -> None:
    time = _time(GEMM=(60, 20, 0, 0), ATTENTION=(0, 0, 10, 0), OTHER=(0, 0, 0, 10))
    assert source_shares(time) == {"measured": 0.6, "interpolated": 0.2, "extrapolated": 0.1, "fallback": 0.1}
    assert family_shares(time) == {"gemm": 0.8, "attention": 0.1, "other": 0.1}
    assert set(source_shares(_time()).values()) == {0.0}


def test_interval_of_a_run() -> None:
    time = _time(GEMM=(100, 0, 0, 0))
    assert time_factors(time, {"gemm": (0.9, 1.2)}) == pytest.approx((0.9, 1.2))
    # Two equal halves with independent errors: narrower than either.
    halves = _time(GEMM=(50, 0, 0, 0), ATTENTION=(50, 0, 0, 0))
    low, high = time_factors(halves, {"gemm": (0.9, 1.1), "attention": (0.9, 1.1)})
    assert 0.9 < low < 0.95 and 1.05 < high < 1.1


def test_propagation() -> None:
    assert propagate(20.0, (0.9, 1.1)) == pytest.approx((20, 18, 22))
    assert propagate(20.0, (0.9, 1.1), gpu_share=0.5) == pytest.approx((20, 19, 21))
    rate = propagate(100.0, (0.8, 1.25), inverse=True)
    assert rate == pytest.approx((100, 80, 125))


def test_warning_only_over_the_threshold() -> None:
    assert coverage_warning({"extrapolated": 0.05, "fallback": 0.1}) is None
    line = coverage_warning({"extrapolated": 0.25, "fallback": 0.1})
    assert line is not None and line.startswith("WARNING: 35 %")


def test_statement_of_a_run() -> None:
    predictor = {
        "by_family": {"gemm": {"low": 0.9, "high": 1.2}},
        "operators": ["", "some_kernel", "never launched", "larger_kernel"],
    }
    said = statement({"gemm": 100}, {"measured": 50, "fallback": 50}, [0, 3000, 0, 4000], predictor)
    assert said["coverage"] == {"measured": 0.5, "interpolated": 0.0, "extrapolated": 0.0, "fallback": 0.5}
    assert said["interval"] == pytest.approx([0.9, 1.2])
    assert said["uncovered"] == [{"operator": "larger_kernel", "us": 4.0}, {"operator": "some_kernel", "us": 3.0}]
    assert said["warning"].startswith("WARNING: 50 %")
    constant = statement({"gemm": 100}, {"fallback": 0, "measured": 100}, [], {})
    assert constant["interval"] == [] and constant["uncovered"] == [] and constant["warning"] is None
