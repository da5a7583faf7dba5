"""Fixtures: a case around the fake server, and runners that are there on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revati import HostError
from revati.experiments.case import Case, case_from_data
from revati.experiments.yaml_nodes import Node, merge, plain

SERVER = Path(__file__).parent / "fake_server.py"

BASE: dict[str, Any] = {
    "revati_case": 1,
    "name": "fake",
    "framework": {"name": "command", "dialect": "vllm"},
    "server": {"command": ["{python}", str(SERVER), "--port", "{port}"]},
    "workload": {
        "requests": 20,
        "classes": {
            "chat": {
                "arrival": {"kind": "poisson", "rate_per_s": 20},
                "input_tokens": 128,
                "output_tokens": 12,
            }
        },
    },
    "slo": {"ttft_ms": 100, "tpot_ms": 8},
    "host_time": {"policy": "free"},
    "limits": {"ready_wall_s": 300, "wall_s": 600, "stall_wall_s": 300},
}


def _node(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({key: _node(item) for key, item in value.items()}, "test")
    if isinstance(value, list):
        return Node([_node(item) for item in value], "test")
    return Node(value, "test")


def fake_data(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The base case with changes merged in."""
    merged = plain(merge(_node(BASE), _node(changes or {})))
    assert isinstance(merged, dict)
    return dict(merged)


@pytest.fixture
def fake_case(tmp_path: Path) -> Callable[..., Case]:
    """Makes a case around the fake server."""

    def make(changes: dict[str, Any] | None = None) -> Case:
        return case_from_data(fake_data(changes), tmp_path)

    return make


@pytest.fixture
def case_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes such a case as a file (JSON is YAML)."""

    def make(changes: dict[str, Any] | None = None, name: str = "case.yaml") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(fake_data(changes)), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def emulation() -> None:
    """Skips the test where nothing can be emulated; says what is missing."""
    from revati._hostcheck import check_host

    try:
        check_host()
    except HostError as error:
        pytest.skip(f"no emulation on this machine: {error}")
