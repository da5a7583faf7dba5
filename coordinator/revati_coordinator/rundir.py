"""The run directory: where a running coordinator can be found, readable by its owner only.

`$XDG_RUNTIME_DIR/revati/<pid>/` (or `/tmp/revati-<uid>/<pid>/`) holds `info.json`, the sockets and a `lock` file that
the coordinator keeps locked. The kernel drops the lock with the process, however it dies: a directory without a lock
is stale and is removed by the next command that looks. A directory gets its name once its lock is held, so that nobody
ever sees a live one unlocked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from revati_coordinator.errors import CoordinatorError, NotRunningError

__all__ = ["RunDirectory", "base_directory", "find_run", "live_runs"]

MAKING = ".making-"


def base_directory(make: bool = True) -> Path:
    """The owner-only folder of all run directories of this user. Raises CoordinatorError when others can enter it.

    Without `make` it may be absent: FileNotFoundError.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    usable = runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK | os.X_OK)
    base = Path(runtime) / "revati" if runtime and usable else Path("/tmp") / f"revati-{os.getuid()}"
    if make:
        with contextlib.suppress(FileExistsError):
            base.mkdir(mode=0o700)
    info = base.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise CoordinatorError(f"{base} is not a directory that only you can enter; remove it or set XDG_RUNTIME_DIR")
    return base


class RunDirectory:
    """The directory of one coordinator, made and locked by it."""

    def __init__(self, pid: int) -> None:
        live_runs()  # drops what dead coordinators left
        making = _make(f"{MAKING}{pid}")
        self._lock = os.open(making / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # waits for a command that looks at it just now
        self.path = making.with_name(str(pid))
        if not _is_locked(self.path):
            shutil.rmtree(self.path, ignore_errors=True)  # of an earlier process of this number
        try:
            making.rename(self.path)
        except OSError as error:
            self.path, taken = making, self.path
            self.remove()
            raise CoordinatorError(
                f"{taken} belongs to a run of another container; set XDG_RUNTIME_DIR to a folder of this one's own"
            ) from error

    def write_info(self, info: Mapping[str, Any]) -> None:
        temporary = self.path / "info.json.new"
        temporary.write_text(json.dumps(dict(info), indent=2) + "\n", encoding="utf-8")
        temporary.rename(self.path / "info.json")

    def remove(self) -> None:
        """Idempotent."""
        remove_directory(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _make(name: str) -> Path:
    """The folder `name` in the base directory, which the end of another run may remove while it is empty."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            path = base_directory() / name
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)
            return path


def remove_directory(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # succeeds for the last one only


def _is_locked(path: Path) -> bool | None:
    """None without a lock file: its owner is just making or removing the folder, or died doing so."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look at once see no owner in each other
        return None if os.fstat(lock).st_nlink == 0 else False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def _is_stale(path: Path, pid: str) -> bool:
    locked = _is_locked(path) if path.name == pid else None
    return not os.path.exists(f"/proc/{pid}") if locked is None else not locked


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def live_runs() -> dict[int, dict[str, Any]]:
    """pid -> info of every live coordinator of this user, oldest first; removes stale directories."""
    runs: dict[int, dict[str, Any]] = {}
    try:
        entries = sorted(base_directory(make=False).iterdir(), key=_age)
    except FileNotFoundError:
        return {}
    for entry in entries:
        pid = entry.name.removeprefix(MAKING)
        if not pid.isdigit():
            continue
        if _is_stale(entry, pid):
            remove_directory(entry)
            continue
        if entry.name != pid:
            continue
        with contextlib.suppress(OSError, ValueError):
            runs[int(entry.name)] = {
                **json.loads((entry / "info.json").read_text(encoding="utf-8")),
                "directory": str(entry),
            }
    return runs


def find_run(pid: int | None = None) -> dict[str, Any]:
    """The info of run `pid`, or of the only one there is. Raises NotRunningError or CoordinatorError."""
    runs = live_runs()
    if pid is not None:
        if pid not in runs:
            raise NotRunningError(f"there is no run {pid}; 'revati status --all' lists what runs")
        return runs[pid]
    if not runs:
        raise NotRunningError("nothing runs under Revati; start one with 'revati run --gpu h100-sxm -- COMMAND'")
    if len(runs) > 1:
        listed = ", ".join(f"{number} ({info.get('command', '?')[:40]})" for number, info in runs.items())
        raise CoordinatorError(f"several runs are alive: {listed}; choose one with --run PID")
    return next(iter(runs.values()))
