"""`revati join`: a command from another terminal enters the clock of a running emulation."""

from __future__ import annotations

import argparse
import os
from typing import Any

from revati._errors import RunError, UsageError
from revati._program import check_program, find_program

__all__ = ["add"]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "join",
        help="run a command in the clock of a running emulation",
        description="Run a command in the same virtual clock as a 'revati run' that is already going.",
    )
    parser.add_argument("--run", type=int, metavar="PID", dest="run_pid", help="which run, when there are several")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from revati._environment import run_environment
    from revati._run import refuse_nesting
    from revati_coordinator.attach import attach
    from revati_coordinator.errors import CoordinatorError, NotRunningError
    from revati_coordinator.rundir import find_run

    refuse_nesting(os.environ)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UsageError("nothing to run: give the command after --")
    try:
        info = find_run(arguments.run_pid)
        program = find_program(command[0], os.environ)
        check_program(program, os.environ)
        argv = [program, *command[1:]]
        return attach(info["attach"], argv, run_environment(os.environ, argv), os.getcwd())
    except NotRunningError as error:
        raise RunError(str(error)) from error
    except CoordinatorError as error:
        raise UsageError(str(error)) from error
