"""Builds what the tests of the clock run: the launcher without the virtual device and the C programs of this folder.

`python csrc/tests/clock_programs.py` builds everything into build/clock. The tests, scripts/stress and
scripts/bench-clock import it. REVATI_LAUNCHER names another launcher, options included, for example
"revati run --policy free --quiet --".
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / "build" / "clock"
FLAGS = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter", "-pthread"]
STRESS = ("stress.c", "sleep.c", "channel.c")


class BuildError(RuntimeError):
    """The compiler or make is missing or failed; the message holds its output."""


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BuildError(f"'{command[0]}' was not found; install a C compiler and make") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")


def _compile(target: Path, sources: list[Path], *flags: str) -> Path:
    headers = [*HERE.rglob("*.h")]
    newest = max(path.stat().st_mtime for path in [*sources, *headers])
    if not target.exists() or target.stat().st_mtime < newest:
        part = target.with_suffix(".new")
        _run([os.environ.get("CC", "cc"), *FLAGS, *flags, *map(str, sources), "-o", str(part), "-lm"])
        part.rename(target)
    return target


class Built:
    """Paths of the launcher and of the programs by name."""

    def __init__(self, out: Path = OUT) -> None:
        out.mkdir(parents=True, exist_ok=True)
        with open(out / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            given = os.environ.get("REVATI_LAUNCHER")
            if given:
                self.launcher = shlex.split(given)
            else:
                _run(["make", "-s", "-C", str(ROOT / "csrc" / "host"), f"OUT={out}"])
                self.launcher = [str(out / "rvt-run")]
            sources = sorted((HERE / "time").glob("*.c"))
            self.programs = {source.stem: _compile(out / f"time-{source.stem}", [source]) for source in sources}
            self.stress = _compile(out / "stress", [HERE / "stress" / name for name in STRESS])
            self.phold = _compile(out / "phold", [HERE / "stress" / "phold.c"])
            self.connect = _compile(out / "connect", [HERE / "stress" / "connect.c"])
            self.relay = _compile(out / "relay", [HERE / "stress" / "relay.c"])
            self.slow_post = _compile(out / "slow_post.so", [HERE / "stress" / "slow_post.c"], "-shared", "-fPIC")

    def inside(self, command: list[str], *options: str) -> list[str]:
        """The command line that runs `command` under the clock; options are those of rvt-run."""
        if os.environ.get("REVATI_LAUNCHER"):
            return [*self.launcher, *command]
        return [*self.launcher, *options, "--", *command]


if __name__ == "__main__":
    try:
        Built()
    except BuildError as error:
        sys.exit(str(error))
