"""Named shared memory that killed processes of a run left in /dev/shm.

A process that ends in order unlinks its segments; one that gets SIGKILL cannot. What nobody maps or has open any more,
is ours, younger than the run and named as the libraries name theirs, is removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

__all__ = ["remove_orphans"]

SHM = Path("/dev/shm")
# multiprocessing.shared_memory and its semaphores, torch, NCCL, CUDA IPC.
NAMES = re.compile(r"psm_|wnsm_|sem\.mp-|torch_|nccl-|cuda\.shm\.")


def _in_use(device: int) -> set[int]:
    """Inodes under /dev/shm that a living process of this user maps or has open.

    Not names: sem_open() maps a file of a passing name before it links it, so its maker shows another one.
    """
    used: set[int] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for line in (process / "maps").read_text(errors="replace").splitlines():
                if f"{SHM}/" in line:
                    used.add(int(line.split(None, 5)[4]))
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor).startswith(f"{SHM}/"):
                        status = os.stat(descriptor)
                        used.update([status.st_ino] if status.st_dev == device else [])
    return used


def remove_orphans(since_s: float) -> list[str]:
    """Removes orphans created at real time `since_s` (seconds since the epoch) or later; returns their names."""
    try:
        candidates = [
            entry
            for entry in SHM.iterdir()
            if NAMES.match(entry.name) and entry.stat().st_uid == os.getuid() and entry.stat().st_ctime >= since_s
        ]
    except OSError:
        return []
    if not candidates:
        return []
    used = _in_use(SHM.stat().st_dev)
    removed = []
    for entry in candidates:
        with contextlib.suppress(OSError):
            if entry.stat().st_ino not in used:
                entry.unlink()
                removed.append(entry.name)
    return removed
