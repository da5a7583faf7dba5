"""`revati run` from outside: virtual time, exit codes, several commands in one clock, joining, control."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REVATI, processes_with, wait_until

Call = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
ENDLESS = "import time\nprint('up', flush=True)\nwhile True: time.sleep(1)"
# A program that keeps the clock from running away: real work between short sleeps.
BUSY = "import time\nprint('up', flush=True)\nwhile True:\n  time.sleep(0.001); sum(range(200000))"


def test_virtual_sleep_takes_no_time_and_is_exact(revati: Call) -> None:
    program = "import time; t=time.monotonic(); time.sleep(86400); print(repr(time.monotonic()-t))"
    began = time.monotonic()
    done = revati("run", "--", sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(86400, abs=1e-6)
    assert time.monotonic() - began < 240
    assert re.search(r"86400\.\d+ virtual s in", done.stderr)


@pytest.mark.parametrize("code", [0, 1, 7])
def test_exit_code_is_the_programs(revati: Call, code: int) -> None:
    assert revati("run", "--quiet", "--", "sh", "-c", f"exit {code}").returncode == code


def test_killed_program_gives_128_plus_signal(revati: Call) -> None:
    assert revati("run", "--quiet", "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_several_commands_share_one_clock(revati: Call) -> None:
    """Two processes of one shell line see each other's sleeps."""
    script = "python3 -c 'import time; time.sleep(50)' & sleep 20; date +%s; wait; date +%s".replace(
        "python3", sys.executable
    )
    done = revati("run", "--quiet", "--", "sh", "-c", script)
    first, second = map(int, done.stdout.split())
    assert second - first == 30


def test_equal_runs_print_equal_dates(revati: Call) -> None:
    outputs = {revati("run", "--quiet", "--", "sh", "-c", "sleep 5; date +%s.%N").stdout for _ in range(2)}
    assert len(outputs) == 1


def test_limit_of_real_time_ends_the_run(revati: Call) -> None:
    done = revati("run", "--limit", "1", "--", sys.executable, "-c", "while True: pass")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


def _await_run(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "up"
    base = Path(os.environ["XDG_RUNTIME_DIR"]) / "revati"
    wait_until(lambda: list(base.glob("*/info.json")), what="the run's info file")


def test_join_status_threads_metrics_stop(start: Start, revati: Call) -> None:
    process = start("run", "--", sys.executable, "-c", BUSY)
    _await_run(process)
    joined = revati("join", "--", "sh", "-c", "cat; echo to-stderr >&2; exit 5", input="through the pipe")
    assert (joined.returncode, joined.stdout, joined.stderr.strip()) == (5, "through the pipe", "to-stderr")
    status = json.loads(revati("status", "--json", "--threads").stdout)
    assert status["status"]["gpu"] == "h100-sxm:1"
    assert int(status["status"]["virtual_ns"]) > 0
    assert any(thread["pid"] for thread in status["threads"])
    metrics = revati("metrics").stdout
    assert re.search(r"^revati_jumps_total \d+ \d+$", metrics, re.MULTILINE)
    assert re.search(r"^revati_gpu_memory_used_bytes\{gpu=\"0\"\} 0 \d+$", metrics, re.MULTILINE)
    assert "NVIDIA H100 80GB HBM3" in revati("smi").stdout
    assert revati("stop").returncode == 0
    process.communicate(timeout=120)
    assert process.returncode != 0


def test_pause_step_and_run_to(start: Start, revati: Call) -> None:
    process = start("run", "--", sys.executable, "-c", ENDLESS)
    _await_run(process)

    def virtual_ns() -> int:
        return int(json.loads(revati("status", "--json").stdout)["status"]["virtual_ns"])

    assert revati("pause").returncode == 0
    first = virtual_ns()
    assert virtual_ns() == first
    assert revati("step", "3").returncode == 0
    wait_until(lambda: virtual_ns() > first, what="the steps")
    after = virtual_ns()
    assert virtual_ns() == after
    assert revati("run-to", str(after / 1e9 + 10)).returncode == 0
    wait_until(lambda: virtual_ns() == pytest.approx(after + 10**10, abs=2), what="run-to")
    assert revati("resume").returncode == 0
    wait_until(lambda: virtual_ns() > after + 2 * 10**10, what="resume")
    revati("stop")
    process.communicate(timeout=120)


def test_refuses_a_second_coordinator_inside_a_run(revati: Call) -> None:
    done = revati("run", "--quiet", "--", *REVATI, "run", "--", "true")
    assert done.returncode == 2
    assert "already runs under Revati" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("victim", ["supervisor", "coordinator", "init", "program"])
def test_kill_9_leaves_nothing(start: Start, victim: str, tmp_path: Path) -> None:
    marker = f"revati-test-{uuid.uuid4().hex}"
    pid_file = tmp_path / "pid"
    child = "import time\nwhile True: time.sleep(1)"
    tree = (
        f"import os,subprocess,sys\nopen({str(pid_file)!r},'w').write(str(os.getpid()))\n"
        f"subprocess.Popen([sys.executable,'-c',{child!r}])\n{BUSY}"
    )
    process = start("run", "--", sys.executable, "-c", tree, env={**os.environ, "REVATI_TEST_MARKER": marker})
    _await_run(process)
    program = int(pid_file.read_text())
    coordinator = int(next((Path(os.environ["XDG_RUNTIME_DIR"]) / "revati").glob("*/info.json")).parent.name)
    init = int(Path(f"/proc/{program}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert len({process.pid, coordinator, init, program}) == 4
    victims = {"supervisor": process.pid, "coordinator": coordinator, "init": init, "program": program}
    os.kill(victims[victim], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    wait_until(lambda: not processes_with(marker), what="the end of every process")
    assert process.returncode == {"supervisor": -9, "coordinator": 4, "init": 4, "program": 137}[victim], errors
    assert "Traceback" not in errors
    if victim == "supervisor":  # its directory goes with the coordinator, a moment later
        wait_until(lambda: not list(Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*")), what="the run directory's end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_run(start: Start, number: signal.Signals) -> None:
    marker = f"revati-test-{uuid.uuid4().hex}"
    process = start("run", "--", sys.executable, "-c", BUSY, env={**os.environ, "REVATI_TEST_MARKER": marker})
    _await_run(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    wait_until(lambda: not processes_with(marker), what="the end of every process")
    assert (
        "revati/" not in errors
    )  # no traceback of ours; Python's own KeyboardInterrupt of the program is its business


def test_deadlock_is_reported_with_names(revati: Call) -> None:
    program = "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"
    done = revati("run", "--", sys.executable, "-c", program)
    assert done.returncode == 4
    assert re.search(r"wait", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("victim", ["program", "coordinator"])
def test_shared_memory_of_killed_processes_is_removed(start: Start, victim: str, tmp_path: Path) -> None:
    program = (
        "import os,time\nfrom multiprocessing import shared_memory\n"
        "m = shared_memory.SharedMemory(create=True, size=4096)\n"
        f"open({str(tmp_path / 'name')!r},'w').write(m.name + ' ' + str(os.getpid()))\n{BUSY}"
    )
    process = start("run", "--", sys.executable, "-c", program)
    _await_run(process)
    name, pid = (tmp_path / "name").read_text().split()
    assert (Path("/dev/shm") / name).exists()
    coordinator = next((Path(os.environ["XDG_RUNTIME_DIR"]) / "revati").glob("*/info.json")).parent.name
    tracker = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for number in [*tracker, int(pid)] if victim == "program" else [int(coordinator)]:
        os.kill(number, signal.SIGKILL)
    process.communicate(timeout=120)
    assert not (Path("/dev/shm") / name).exists()
