"""Run directories: found while their coordinator lives, removed once it is dead, never in between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from revati_coordinator.errors import CoordinatorError
from revati_coordinator.rundir import RunDirectory, live_runs

LOOK = "from revati_coordinator.rundir import live_runs\nwhile True: live_runs()"


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "revati"


def test_starting_beside_commands_that_look(base: Path) -> None:
    """What looks for runs all the time never takes a starting run for a dead one."""
    lookers = [subprocess.Popen([sys.executable, "-c", LOOK]) for _ in range(2)]
    try:
        for _ in range(2000):
            directory = RunDirectory(os.getpid())
            directory.write_info({"command": "x"})
            assert live_runs()[os.getpid()]["command"] == "x"
            directory.remove()
    finally:
        for looker in lookers:
            looker.kill()
            looker.wait()
    assert not base.exists()


@pytest.mark.parametrize("name", ["{pid}", ".making-{pid}"])
@pytest.mark.parametrize("locked_once", [True, False])
def test_what_a_dead_coordinator_left_is_removed(base: Path, name: str, locked_once: bool) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = base / name.format(pid=dead.pid)
    left.mkdir(parents=True)
    base.chmod(0o700)
    (left / "info.json").write_text("{}")
    if locked_once:
        (left / "lock").touch()
    assert live_runs() == {}
    assert not base.exists()


def test_an_earlier_process_of_the_same_number_left_its_folder(base: Path) -> None:
    for name in (str(os.getpid()), f".making-{os.getpid()}"):
        (base / name / "old").mkdir(parents=True)
    base.chmod(0o700)
    directory = RunDirectory(os.getpid())
    assert os.listdir(directory.path) == ["lock"]
    directory.remove()
    assert not base.exists()


def test_a_run_of_another_container_is_left_alone(base: Path) -> None:
    first = RunDirectory(os.getpid())
    with pytest.raises(CoordinatorError, match="XDG_RUNTIME_DIR"):
        RunDirectory(os.getpid())
    assert os.listdir(first.path) == ["lock"] and os.listdir(base) == [str(os.getpid())]
    first.remove()
