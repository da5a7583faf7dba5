"""subprocess and its relatives: time-outs, output that arrives in time, ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from clockcheck import INSIDE, at, run, same

LONG = "1000" if INSIDE else "1"


def runs() -> None:
    start = time.monotonic_ns()
    same("code", subprocess.run(["sleep", "0.05"]).returncode, 0)
    at("run", start, 0.05)
    start = time.monotonic_ns()
    same("output", subprocess.check_output("sleep 0.02; echo a; sleep 0.02; echo b", shell=True), b"a\nb\n")
    at("check_output", start, 0.04)


def time_outs() -> None:
    start = time.monotonic_ns()
    try:
        subprocess.run(["sleep", LONG], timeout=0.1)
        same("run", "done", "TimeoutExpired")
    except subprocess.TimeoutExpired:
        at("run(timeout)", start, 0.1, tolerance_ns=50_000_000)  # waits in steps of its own
    start = time.monotonic_ns()
    try:
        subprocess.run(["sleep", LONG], timeout=0.1, capture_output=True)
        same("run", "done", "TimeoutExpired")
    except subprocess.TimeoutExpired:
        at("communicate(timeout)", start, 0.1, tolerance_ns=1_000_000)
    child = subprocess.Popen(["sleep", "0.06"])
    try:
        child.wait(0.02)
        same("wait", "done", "TimeoutExpired")
    except subprocess.TimeoutExpired:
        pass
    same("code", child.wait(), 0)


def pipes() -> None:
    child = subprocess.Popen(
        ["sh", "-c", "while read x; do sleep 0.01; echo got $x; done"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert child.stdin and child.stdout
    for i in range(5):
        start = time.monotonic_ns()
        child.stdin.write(f"{i}\n")
        same("answer", child.stdout.readline(), f"got {i}\n")
        at("answer", start, 0.01)
    child.stdin.close()
    same("code", child.wait(), 0)


def kills() -> None:
    child = subprocess.Popen(["sleep", LONG])
    start = time.monotonic_ns()
    time.sleep(0.02)
    child.kill()
    same("code", child.wait(), -9)
    at("kill", start, 0.02, tolerance_ns=0 if INSIDE else 1_000)


def others() -> None:
    start = time.monotonic_ns()
    same("system", os.system("sleep 0.02"), 0)
    at("system", start, 0.02)
    start = time.monotonic_ns()
    pid = os.posix_spawn("/bin/sleep", ["sleep", "0.02"], os.environ)
    same("posix_spawn", os.waitpid(pid, 0)[1], 0)
    at("posix_spawn", start, 0.02)
    start = time.monotonic_ns()
    program = "import time; time.sleep(0.03)"
    same("python", subprocess.run([sys.executable, "-S", "-c", program]).returncode, 0)
    at("python, its start included", start, 0.03)


run(runs, time_outs, pipes, kills, others)
