"""Whether the coordinator keeps idle CPUs awake between hand-overs (csrc/host/awake.c): faster, at the price of power.

It gains where a CPU that idles is halted by a hypervisor, and loses where CPU time is rationed or many CPUs would spin.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from revati._errors import UsageError

__all__ = ["VARIABLE", "keep_awake"]

VARIABLE = "REVATI_KEEP_AWAKE"
_CPUS_MOST = 8


def keep_awake(environment: Mapping[str, str], root: Path = Path("/")) -> bool:
    """The variable's 0 or 1, else yes on a virtual machine of few CPUs without a quota. Raises UsageError."""
    wanted = environment.get(VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise UsageError(f"{VARIABLE} is '{wanted}'; it must be 0 (idle CPUs may sleep) or 1 (they may not)")
    if wanted:
        return wanted == "1"
    return _virtual(root) and len(os.sched_getaffinity(0)) <= _CPUS_MOST and not _rationed(root)


def _virtual(root: Path) -> bool:
    lines = _text(root / "proc/cpuinfo").split("\n")
    return any("hypervisor" in line.split() for line in lines if line.startswith("flags"))


def _rationed(root: Path) -> bool:
    """Whether a control group limits the CPU time of this process."""
    for folder in _groups(root):
        quota = _text(folder / "cpu.max").split() or _text(folder / "cpu.cfs_quota_us").split()
        if quota and quota[0] not in ("max", "-1"):
            return True
    return False


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's groups and of those above them; in a container they are mounted at the top."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            group, top = Path(path.lstrip("/")), root / "sys/fs/cgroup" / controllers
            yield from (top / part for part in (group, *group.parents))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
