"""The clock's tests run programs natively and inside the clock; both are built once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "csrc" / "tests"))

from clock_programs import Built


@pytest.fixture(scope="session")
def built() -> Built:
    return Built()
