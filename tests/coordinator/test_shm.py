"""Shared memory that is left over is removed; what somebody still uses is not, whoever that is."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing import shared_memory

from revati_coordinator.shm import SHM, remove_orphans


def test_what_another_program_uses_stays() -> None:
    """A semaphore that its maker has and nobody else has opened yet: its mapping bears another name."""
    since_s = time.time() - 1
    semaphore = multiprocessing.get_context("spawn").Semaphore(1)
    memory = shared_memory.SharedMemory(create=True, size=4096)
    try:
        names = {f"sem.{semaphore._semlock.name[1:]}", memory.name}  # type: ignore[attr-defined]
        assert names <= set(os.listdir(SHM))
        assert not names & set(remove_orphans(since_s))
        assert names <= set(os.listdir(SHM))
    finally:
        memory.close()
        memory.unlink()


def test_what_a_killed_program_left_goes() -> None:
    since_s = time.time() - 1
    program = "import multiprocessing as m, os; s = m.get_context('spawn').Semaphore(1); "
    program += "print(s._semlock.name[1:], flush=True); os.kill(os.getpid(), 9)"
    # The tracker that would clean up after it is not there yet: SemLock registers names with it.
    program = "import multiprocessing.resource_tracker as t; t.register = lambda *_: None; " + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    name = f"sem.{done.stdout.strip()}"
    assert (SHM / name).exists()
    assert name not in remove_orphans(time.time() + 60), "older than the run: not ours"
    assert name in remove_orphans(since_s)
    assert not (SHM / name).exists()
