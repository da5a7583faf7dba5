"""The supervisor's own end. What it does about killed processes: test_run.py and tests/frameworks/test_faults.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

# The second signal arrives when the coordinator has ended and the interpreter is going down.
LATE = """
import atexit, os, sys
from revati_coordinator.supervisor import supervise

code = supervise(lambda: 130)
atexit.register(os.kill, os.getpid(), int(sys.argv[1]))
os.kill(os.getpid(), int(sys.argv[1]))
sys.exit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_late_signal_does_not_replace_the_exit_code(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LATE), str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")
