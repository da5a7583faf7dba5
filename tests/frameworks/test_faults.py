"""Ctrl-C and kill -9 with the real vLLM: an exit code, no traceback of ours, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import processes_with, wait_until
from tests.demo import demo_command, need_vllm

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
START_S = 1200.0
END_S = 60.0


class Demo:
    """A demo in a session of its own, its output in a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        need_vllm()
        self.marker = f"revati-test-{uuid.uuid4().hex}"
        self.shared_memory = set(os.listdir("/dev/shm"))
        self.output = folder / "output"
        with open(self.output, "w") as out:
            self.process = subprocess.Popen(
                demo_command(folder, *arguments),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "REVATI_TEST_MARKER": self.marker},
            )

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def reach(self, phase: str) -> None:
        def there() -> bool:
            assert self.process.poll() is None, self.text()
            return phase in self.text()

        wait_until(there, START_S, f"phase {phase}")

    def pid_of(self, name: str) -> int:
        """The pid of the process that calls itself `name`."""
        for pid in _with_descendants(processes_with(self.marker)):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if name in command and "_demo" not in command:
                return pid
        pytest.fail(f"no process {name}: {self.text()}")

    def ended(self) -> int:
        code = self.process.wait(timeout=END_S)
        wait_until(lambda: not processes_with(self.marker), END_S, "the end of every process")
        assert "revati/_" not in self.text(), f"a traceback of ours:\n{self.text()}"
        # Tests of another file may run beside this one: what they are about to map or to remove goes away by itself.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._left(), END_S)
        assert not self._left(), f"shared memory left behind: {self._left()}"
        return code

    def _left(self) -> set[str]:
        return {name for name in set(os.listdir("/dev/shm")) - self.shared_memory if not _in_use(name)}

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _with_descendants(pids: Iterable[int]) -> list[int]:
    """A process that renames itself overwrites the environment by which it would be found; its parent does not."""
    found = list(pids)
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split() if int(child) not in found]
    return found


def _in_use(name: str) -> bool:
    """Whether a living process still maps it: then it belongs to somebody else on this machine."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if f"/dev/shm/{name}" in maps.read_text():
                return True
        except OSError:
            continue
    return False


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    started = Demo(tmp_path, "--quick", "--requests", "40")
    yield started
    started.kill()


@pytest.mark.parametrize("phase", ["imports", pytest.param("kernels", marks=pytest.mark.extended), "serving"])
def test_ctrl_c(demo: Demo, phase: str) -> None:
    demo.reach(phase)
    time.sleep(1)
    os.killpg(demo.process.pid, signal.SIGINT)
    time.sleep(0.2)  # the first one has been handled: an impatient user presses again while things are put away
    with contextlib.suppress(ProcessLookupError):
        os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.ended() == 130


@pytest.mark.parametrize("victim", ["VLLM::EngineCore", "vllm serve", "vllm bench"])
def test_kill_9_while_serving(demo: Demo, victim: str) -> None:
    demo.reach("serving")
    os.kill(demo.pid_of(victim), signal.SIGKILL)
    assert demo.ended() in (1, 4)
    assert "revati: " in demo.text()
