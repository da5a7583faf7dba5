"""`revati doctor`: can this machine run an emulation?"""

from __future__ import annotations

import argparse
from typing import Any

from revati._errors import HostError
from revati._hostcheck import findings

__all__ = ["add"]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor", help="check this machine", description="Check what a run needs on this machine."
    )
    parser.add_argument("--no-run", action="store_true", help="skip the short test run")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    lines = findings()
    for finding in lines:
        mark = "ok  " if finding.good else ("FAIL" if finding.fatal else "warn")
        print(f"{mark}  {finding.name}: {finding.text}")
    usable = all(finding.good or not finding.fatal for finding in lines)
    if usable and not arguments.no_run:
        usable = _test_run()
    print("this machine can run emulations" if usable else "this machine cannot run emulations")
    return 0 if usable else HostError.exit_code


def _test_run() -> bool:
    """One virtual hour of sleep: takes no time when the clock works."""
    import shutil

    from revati._catalogue import parse_gpu_option
    from revati._run import Predictor, Run, RunOptions, end_error

    sleep = shutil.which("sleep")
    if sleep is None:
        print("warn  test run: no 'sleep' command, skipped")
        return True
    options = RunOptions(parse_gpu_option("h100-sxm"), predictor=Predictor("constant"), limit_real_s=20.0)
    with Run(options) as run:
        argv = [sleep, "3600"]
        run.spawn(argv, run.environment(argv))
        run.start()
        end = run.wait()
    error = end_error(end)
    good = error is None and end.exit_code == 0 and end.virtual_ns >= 3600 * 10**9
    text = str(error) if error else f"slept {end.virtual_ns / 1e9:.0f} virtual s in {end.real_ns / 1e9:.2f} s"
    print(f"{'ok  ' if good else 'FAIL'}  test run: {text}")
    return good
