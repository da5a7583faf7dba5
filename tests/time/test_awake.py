"""Threads that keep idle CPUs awake: one on each CPU, of idle priority, silent while nobody hands over."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from clock_programs import Built

from tests.conftest import wait_until


def test_one_of_idle_priority_on_every_cpu(built: Built) -> None:
    command = built.inside(["sh", "-c", "read line"], "--awake", "--idle-ok", "--quiet")
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    tasks = Path(f"/proc/{process.pid}/task")

    def cpus() -> list[set[int]]:
        tids = [int(task.name) for task in tasks.iterdir()]
        return [os.sched_getaffinity(tid) for tid in tids if os.sched_getscheduler(tid) == os.SCHED_IDLE]

    every = [{cpu} for cpu in sorted(os.sched_getaffinity(0))[:16]]
    try:
        wait_until(lambda: sorted(cpus(), key=min) == every, what="a thread on each CPU")
        process.communicate(b"\n", timeout=60)
    finally:
        process.kill()
    assert process.wait() == 0


def test_nothing_spins_while_a_program_computes(built: Built) -> None:
    program = "import time; end = time.process_time() + 2\nwhile time.process_time() < end: pass"
    command = built.inside(["python3", "-c", program], "--awake")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    spent = re.search(r"coordinator ([0-9.]+) s CPU", done.stderr)
    assert done.returncode == 0 and spent is not None, done.stderr
    assert float(spent[1]) < 0.5


def test_holds_end_when_they_should(built: Built) -> None:
    command = [str(built.phold), "--threads", "20", "--processes", "4", "--holds", "2000"]
    done = subprocess.run(built.inside(command, "--awake", "--turns"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and '"late": 0' in done.stdout, done.stdout + done.stderr
