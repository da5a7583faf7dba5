"""pytest plugin: the fixture `revati_case` runs a case and hands back what its clients measured.

def test_chat_is_fast(revati_case):
    result = revati_case("cases/chat.yaml", "server.args=[--max-num-seqs, 64]")
    assert result.metrics["ttft_ms.p99"] < 400
    result.check()  # against the baseline given with --revati-baseline
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from revati import RevatiError

__all__ = ["CaseResult", "pytest_addoption", "revati_case"]


@dataclass(frozen=True)
class CaseResult:
    """A finished case."""

    case: Any
    data: dict[str, Any]
    baseline: Path | None

    @property
    def metrics(self) -> dict[str, float]:
        values: dict[str, float] = self.data["metrics"]
        return values

    def check(self) -> None:
        """Fails the test, with metric, size and cause, if the case is worse than its baseline."""
        from revati.experiments.check import judge, read_baseline, text

        if self.baseline is None:
            pytest.fail("no baseline: start pytest with --revati-baseline FILE", pytrace=False)
        verdict = judge(self.case, self.data, read_baseline(self.baseline).get(self.case.name))
        if verdict.state != "pass":
            pytest.fail(text([verdict]), pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("revati")
    group.addoption("--revati-baseline", type=Path, default=None, help="baseline that result.check() compares with")
    group.addoption("--revati-native", action="store_true", help="run cases on the host's own clock and devices")


@pytest.fixture
def revati_case(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., CaseResult]:
    """A function (case file, "key=value", ...) -> CaseResult; a case that does not run fails the test."""
    from revati.experiments.bench import run_case
    from revati.experiments.case import load_case
    from revati.experiments.runner import EmulatedRunner, NativeRunner

    native = request.config.getoption("--revati-native")
    baseline = request.config.getoption("--revati-baseline")

    def run(path: str | Path, *sets: str) -> CaseResult:
        try:
            case = load_case(Path(path), sets)
            data = run_case(case, tmp_path / case.name, NativeRunner() if native else EmulatedRunner())
        except RevatiError as error:
            pytest.fail(str(error), pytrace=False)
        return CaseResult(case, data, baseline)

    return run
