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


def _in_use() -> set[str]:
    """Names under /dev/shm that a living process of this user maps or has open."""
    used: set[str] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for line in (process / "maps").read_text(errors="replace").splitlines():
                _, found, name = line.partition(f"{SHM}/")
                if found:
                    used.add(name.split(" ", 1)[0])
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(descriptor)
                    if target.startswith(f"{SHM}/"):
                        used.add(target[len(f"{SHM}/") :].split(" ", 1)[0])
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
    used = _in_use()
    removed = []
    for entry in candidates:
        if entry.name not in used:
            with contextlib.suppress(OSError):
                entry.unlink()
                removed.append(entry.name)
    return removed
