"""A run whose predictor is gone ends: no duration is better than a made-up one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.csrc.test_device import build

# Holds the program at its standard input until the service has stopped: its next new operator has no price.
RUN = """
import os, sys
from revati._catalogue import parse_gpu_option
from revati._run import Run, RunOptions, parse_predictor
from revati_coordinator.supervisor import supervise

def go():
    out_of_us, into_it = os.pipe()
    with Run(RunOptions(parse_gpu_option("h100-sxm"), predictor=parse_predictor("roofline"))) as run:
        run.spawn([sys.argv[1]], run.environment([sys.argv[1]]), None, (out_of_us, 1, 2))
        run.start()
        run._service.stop()
        os.write(into_it, b"x")
        end = run.wait()
    return end.exit_code

sys.exit(supervise(go))
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_lost_predictor_ends_the_run(tmp_path: Path) -> None:
    program = build("late", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), str(program)],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 70, done.stdout + done.stderr
    assert "revati: the predictor service" in done.stderr
    assert "went on" not in done.stdout
