"""Programs for the recorder's tests: compiled, recorded on the virtual device, and their tables read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from revati._hostcheck import preload_library

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).resolve().parent / "programs"

needs_tools = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


def compile_c(name: str, folder: Path, *flags: str) -> Path:
    """Compiles programs/NAME.c; libraries with the flag -shared."""
    target = folder / name
    include = [f"-I{ROOT / 'tests' / 'csrc' / 'programs'}", f"-I{ROOT / 'csrc'}"]
    source = str(PROGRAMS / f"{name}.c")
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", *include, source, *flags, "-o", str(target), "-ldl", "-lpthread"], check=True
    )
    return target


def compile_program(name: str, folder: Path) -> Path:
    return compile_c(name, folder, str(preload_library()))


def record(
    out: Path,
    command: Sequence[str],
    *options: str,
    predictor: str = "constant:2",
    timeout: float = 120,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """`revati run -- revati record -- command`; the run's own report goes beside OUT.

    Policy free: under the others host time passes between an event and the launch, as it does on a card.
    """
    revati = [sys.executable, "-m", "revati"]
    return subprocess.run(
        [
            *(
                *revati,
                "run",
                "--policy",
                "free",
                "--predictor",
                predictor,
                "--report",
                str(out.with_suffix(".json")),
                "--",
            ),
            *(*revati, "record", "--out", str(out), *options, "--", *command),
        ],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **variables},
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(path).to_pylist())


def report_of(out: Path) -> dict[str, Any]:
    """What the virtual device booked: `use` of the run's report."""
    return dict(json.loads(out.with_suffix(".json").read_text())["use"])
