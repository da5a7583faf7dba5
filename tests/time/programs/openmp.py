"""Thread pools of numeric libraries beside fork and subprocess: several of them wait inside libgomp or spin in
OpenBLAS, and their fork handlers join those threads. Run with OMP_NUM_THREADS=4."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time

import numpy
from clockcheck import at, run, same


def _work() -> float:
    a = numpy.ones((400, 400), dtype=numpy.float32)
    total = float((a @ a)[0, 0])
    if os.environ.get("WITH_TORCH") == "1":
        import torch

        b = torch.ones(400, 400)
        total += float((b @ b)[0, 0]) + float(torch.ones(1 << 20).sum())
    return total


def computes() -> None:
    first = _work()
    for _ in range(5):
        same("result", _work(), first)
        start = time.monotonic_ns()
        time.sleep(0.01)
        at("sleep between computations", start, 0.01)


def forks() -> None:
    _work()
    for _ in range(5):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.01,))
        start = time.monotonic_ns()
        child.start()
        child.join()
        same("code", child.exitcode, 0)
        at("fork beside a thread pool", start, 0.01, 1_000_000)
        _work()


def starts_programs() -> None:
    _work()
    for _ in range(5):
        start = time.monotonic_ns()
        same("code", subprocess.run(["sleep", "0.01"], close_fds=True).returncode, 0)
        at("vfork beside a thread pool", start, 0.01, 1_000_000)
        same("output", subprocess.check_output("echo x", shell=True, start_new_session=True), b"x\n")
        _work()


run(computes, forks, starts_programs)
