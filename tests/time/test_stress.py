"""The exact oracle finds nothing under the clock, and finds plenty without it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clock_programs import Built

from tests.conftest import busy_processes

ROOT = Path(__file__).resolve().parents[2]


def stress(*arguments: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, str(ROOT / "scripts" / "stress"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr
    return done.returncode, json.loads(lines[-1]), done.stderr


def test_the_oracle_can_fail() -> None:
    code, result, text = stress("--native", "--events", "1000")
    assert code == 1
    assert result["violations"] > 1000
    assert "expected at" in text


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        (["--events", "4000"], 8000),
        (["--events", "4000", "--mix", "tcp,udp", "--seed", "2"], 8000),
        (["--events", "2000", "--mix", "shm,psem,pcond,pfutex", "--seed", "3"], 3000),
        (["--events", "2000", "--processes", "32", "--threads", "2", "--seed", "4"], 4000),
        (["--events", "2000", "--processes", "2", "--threads", "16", "--seed", "5"], 4000),
        (["--events", "2000", "--hogs", "2", "--seed", "6"], 4000),
    ],
    ids=["all", "network", "memory", "32-processes", "16-threads", "hogs"],
)
def test_no_violation(arguments: list[str], least: int) -> None:
    code, result, text = stress(*arguments)
    assert (code, result["violations"], result["lost"]) == (0, 0, 0), text
    assert result["events"] > least


@pytest.mark.parametrize("policy", ["modelled", "measured"])
def test_nothing_comes_early_when_host_time_is_charged(policy: str) -> None:
    """Channels whose data lie in shared memory are left out: what is written there is seen at once (documented)."""
    code, result, text = stress(
        "--policy", policy, "--events", "2000", "--mix", "pipe,unix,tcp,udp,cond", "--seed", "7"
    )
    assert (code, result["violations"], result["lost"]) == (0, 0, 0), text


def test_zmq() -> None:
    if importlib.util.find_spec("zmq") is None:
        pytest.skip("zmq is not installed")
    code, result, text = stress("--zmq", "--events", "1000", "--processes", "4")
    assert (code, result["violations"], result["lost"]) == (0, 0, 0), text
    assert result["events"] == 1000


def test_zmq_oracle_can_fail() -> None:
    if importlib.util.find_spec("zmq") is None:
        pytest.skip("zmq is not installed")
    code, result, _ = stress("--zmq", "--native", "--events", "200", "--processes", "4")
    assert code == 1
    assert result["violations"] > 100


def test_phold_is_exact(built: Built) -> None:
    """20 threads pass tokens on; every hold ends at its deadline."""
    command = built.inside([str(built.phold), "--threads", "20", "--processes", "4", "--holds", "2000"], "--quiet")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["late"] == 0


@pytest.mark.parametrize("order", [(), ("--turns",)])
def test_connections_are_set_up_in_no_time(built: Built, order: tuple[str, ...]) -> None:
    """Between connect() and the answer no server's timer fires, however busy the kernel is with other packets."""
    command = built.inside([str(built.connect), "--connections", "1000"], "--quiet", *order)
    with busy_processes():
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {"connections": 3000, "late": 0, "worst_ns": 0}


@pytest.mark.parametrize("order", [(), ("--turns",)])
def test_a_look_between_the_count_of_a_wake_and_the_wake(built: Built, order: tuple[str, ...]) -> None:
    """Sleepers that a proof has seen asleep are looked at again only when a wake was counted: however long it takes."""
    command = built.inside([str(built.relay), "1500"], "--quiet", *order)
    with busy_processes(4):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, env={**os.environ, "LD_PRELOAD": str(built.slow_post)}
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["late"] == 0


def test_connections_take_time_without_the_clock(built: Built) -> None:
    done = subprocess.run([built.connect, "--connections", "20"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert json.loads(done.stdout)["late"] >= 60


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("mutex", ["mutex"]),
        ("pipe", ["read"]),
        ("processes", ["read"]),
        ("semaphore", ["semaphore"]),
        ("futex", ["futex"]),
    ],
)
def test_deadlock_is_reported(built: Built, which: str, words: list[str]) -> None:
    """Named wait by named wait, with an exit code, in bounded time; nothing is left behind."""
    command = built.inside([str(built.programs["deadlock"]), which], "--quiet")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode not in (0, 2)
    assert "deadlock" in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert done.stderr.count("(pid ") == (2 if which in ("mutex", "processes") else 1)


def test_ties_have_one_order(built: Built) -> None:
    """18 threads of 6 processes write to one pipe at the same moments: the same sequence in every run, hogs or not."""
    command = built.inside([str(built.programs["order"])], "--quiet")
    orders = set()
    for count in (0, 0, 2):
        with busy_processes(count):
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        orders.add(done.stdout)
    assert len(orders) == 1
