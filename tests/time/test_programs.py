"""Every program of csrc/tests/time and tests/time/programs behaves the same natively and inside the clock.

Inside, each moment is exact to the nanosecond. Natively the machine may be busy: a program gets three attempts there.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clock_programs import HERE, Built

from tests.conftest import busy_processes

C_PROGRAMS = sorted(path.stem for path in (HERE / "time").glob("*.c") if path.stem != "deadlock")
PYTHON_FOLDER = Path(__file__).parent / "programs"
# program, needed module, environment
PYTHON_PROGRAMS = [
    ("threads", None, {}),
    ("subprocesses", None, {}),
    ("multiprocesses", None, {}),
    ("python_signals", None, {}),
    ("aio", None, {}),
    ("aio", "uvloop", {"UVLOOP": "1"}),
    ("zmq_polls", "zmq", {}),
    ("grpc_calls", "grpc", {}),
    ("openmp", "numpy", {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}),
    pytest.param("openmp", "torch", {"OMP_NUM_THREADS": "4", "WITH_TORCH": "1"}, marks=pytest.mark.slow),
]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env={**os.environ, **environment})


def natively(command: list[str], **environment: str) -> None:
    for _ in range(3):
        done = run(command, **environment)
        if done.returncode == 0:
            return
    pytest.fail(done.stdout + done.stderr)


def inside(built: Built, command: list[str], *options: str, **environment: str) -> None:
    done = run(built.inside(command, "--quiet", "--real-limit", "60", *options), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok " in done.stdout


@pytest.mark.parametrize("name", C_PROGRAMS)
def test_c_program_natively(built: Built, name: str) -> None:
    natively([str(built.programs[name])])


ORDERS = pytest.mark.parametrize("order", [(), ("--turns",)], ids=["fired", "turns"])


@ORDERS
@pytest.mark.parametrize("name", C_PROGRAMS)
def test_c_program_inside(built: Built, name: str, order: tuple[str, ...]) -> None:
    inside(built, [str(built.programs[name])], *order)


def test_turns_come_one_by_one_in_the_same_order(built: Built) -> None:
    """36 threads of three processes, woken together by six kinds of objects, 20 times; every second run beside hogs."""
    outputs = set()
    for attempt in range(4):
        with busy_processes(2 if attempt % 2 else 0):
            command = built.inside([str(built.programs["turns"]), "all"], "--quiet", "--turns", "--real-limit", "60")
            done = run(command, WITH_TURNS="1")
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1


@pytest.mark.parametrize(("name", "module", "environment"), PYTHON_PROGRAMS)
def test_python_program_natively(name: str, module: str | None, environment: dict[str, str]) -> None:
    if module and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    natively([sys.executable, str(PYTHON_FOLDER / f"{name}.py")], **environment)


@ORDERS
@pytest.mark.parametrize(("name", "module", "environment"), PYTHON_PROGRAMS)
def test_python_program_inside(
    built: Built, name: str, module: str | None, environment: dict[str, str], order: tuple[str, ...]
) -> None:
    if module and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    inside(built, [sys.executable, str(PYTHON_FOLDER / f"{name}.py")], *order, **environment)


class SlowNameServer:
    """Answers every question, 0.2 s late, that there is no such name."""

    def __init__(self) -> None:
        self.questions = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                question, client = self.socket.recvfrom(512)
                self.questions += 1
                time.sleep(0.2)  # this server is outside the clock: real time is what the test is about
                self.socket.sendto(question[:2] + b"\x81\x83" + question[4:6] + bytes(6) + question[12:], client)
            except OSError:  # closed
                return


@pytest.fixture
def name_server() -> Iterator[SlowNameServer]:
    server = SlowNameServer()
    yield server
    server.socket.close()


@pytest.mark.parametrize("within", [False, True], ids=["natively", "inside"])
def test_a_slow_name_server_costs_no_time(built: Built, name_server: SlowNameServer, within: bool) -> None:
    command = [sys.executable, str(PYTHON_FOLDER / "names.py")]
    if within:
        inside(built, command, NAME_SERVER_PORT=str(name_server.port))
    else:
        natively(command, NAME_SERVER_PORT=str(name_server.port))
    if not name_server.questions:
        pytest.skip("names are looked up by a service of this system, not by libc's own resolver")
    assert name_server.questions >= 3
