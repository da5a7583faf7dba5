"""When idle CPUs are kept awake: on a small virtual machine whose CPU time is not rationed, or as the user says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from revati import UsageError
from revati._awake import VARIABLE, keep_awake


def machine(root: Path, files: dict[str, str], *, virtual: bool = True) -> Path:
    """A root folder with such files in /proc and /sys."""
    flags = "flags\t\t: fpu vme hypervisor lahf_lm\n" if virtual else "flags\t\t: fpu vme lahf_lm\n"
    for name, text in {"proc/cpuinfo": flags, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def _two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


def test_a_small_virtual_machine(tmp_path: Path) -> None:
    assert keep_awake({}, machine(tmp_path, {"proc/self/cgroup": "0::/user.slice\n"}))


def test_a_machine_of_metal(tmp_path: Path) -> None:
    assert not keep_awake({}, machine(tmp_path, {}, virtual=False))


def test_many_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert not keep_awake({}, machine(tmp_path, {}))


@pytest.mark.parametrize(
    ("group", "file", "quota", "rationed"),
    [
        ("0::/a/b", "sys/fs/cgroup/a/b/cpu.max", "max 100000", False),
        ("0::/a/b", "sys/fs/cgroup/a/cpu.max", "200000 100000", True),
        ("0::/", "sys/fs/cgroup/cpu.max", "200000 100000", True),
        ("4:cpu,cpuacct:/docker/1", "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "150000", True),
        ("4:cpu,cpuacct:/docker/1", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000", True),
        ("4:cpu,cpuacct:/docker/1", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1", False),
        ("4:cpuset:/docker/1", "sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "150000", False),
    ],
)
def test_a_quota_of_cpu_time(tmp_path: Path, group: str, file: str, quota: str, rationed: bool) -> None:
    root = machine(tmp_path, {"proc/self/cgroup": f"9:pids:/x\n{group}\n", file: quota + "\n"})
    assert keep_awake({}, root) is not rationed


def test_the_user_decides(tmp_path: Path) -> None:
    assert keep_awake({VARIABLE: "1"}, machine(tmp_path / "metal", {}, virtual=False))
    assert not keep_awake({VARIABLE: "0"}, machine(tmp_path / "virtual", {}))
    with pytest.raises(UsageError, match=f"{VARIABLE} is 'yes'; it must be 0"):
        keep_awake({VARIABLE: "yes"}, tmp_path)
