"""Whatever ends a run, nothing of it is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from clock_programs import Built

# A tree of sleepers, a busy-poller of the clock and a process that left its session.
TREE = """
sh -c 'while true; do sleep 1; done' &
setsid sh -c 'while true; do sleep 3; done' &
(while true; do :; done) &
echo up
wait
"""


@pytest.fixture
def marker() -> Iterator[str]:
    """A value of MARKER in the environment of everything that the test starts; what is left is killed and fails."""
    value = uuid.uuid4().hex
    yield value
    left = alive(value)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "processes were left behind"


def alive(marker: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"MARKER={marker}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def gone(marker: str) -> bool:
    limit = time.monotonic() + 120
    while alive(marker):
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def start(built: Built, marker: str, script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        built.inside(["sh", "-c", script], "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "MARKER": marker},
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("signo", [signal.SIGKILL, signal.SIGTERM])
def test_launcher_is_killed(built: Built, marker: str, signo: signal.Signals) -> None:
    process = start(built, marker, TREE)
    assert len(alive(marker)) > 3
    process.send_signal(signo)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert gone(marker)


def test_main_program_ends_before_its_children(built: Built, marker: str) -> None:
    process = start(built, marker, TREE.replace("wait", "exit 3"))
    process.communicate(timeout=120)
    assert process.returncode == 3
    assert gone(marker)


def test_main_program_is_killed(built: Built, marker: str) -> None:
    process = start(built, marker, TREE.replace("wait", "kill -9 $$"))
    process.communicate(timeout=120)
    assert process.returncode == 137
    assert gone(marker)


def test_unknown_program(built: Built, marker: str) -> None:
    command = built.inside(["/nonexistent/program"], "--quiet")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "MARKER": marker})
    assert done.returncode != 0
    assert "/nonexistent/program" in done.stderr
