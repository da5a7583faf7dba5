"""Fixtures of the whole suite: the installed command, and the promise that no test leaves a process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REVATI = [sys.executable, "-m", "revati"]

# A suite started in the background inherits an ignored SIGINT; the programs that tests interrupt must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _owner_only_runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test finds its own runs only, whatever else this user is running."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield
    left = [str(path) for path in folder.rglob("*")]
    assert not left, f"the run directory was left behind: {left}"


@pytest.fixture
def revati() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a `revati` command to its end."""

    def call(*arguments: str, timeout: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*REVATI, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,  # type: ignore[call-overload]
        )

    return call


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a `revati` command in a session of its own; whatever is left of it is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: str, **options: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*REVATI, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,  # type: ignore[call-overload]
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=120)


def processes_with(marker: str) -> list[int]:
    """Pids of processes whose environment or command line holds `marker`; zombies do not count."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            text = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in text:
            found.append(int(folder.name))
    return found


@contextlib.contextmanager
def busy_processes(count: int = 2) -> Iterator[None]:
    """So many processes outside every run that keep a core busy each."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def wait_until(condition: Callable[[], object], limit_s: float = 120.0, what: str = "the condition") -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, f"{what} did not come true within {limit_s} s"
        time.sleep(0.02)
