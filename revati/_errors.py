"""Every error that Revati raises on purpose, with the exit code that the command line gives it.

    RevatiError                     1   anything below; a failed run
    +-- UsageError                  2   the command line or a configuration file is wrong
    |   +-- UnknownNameError        2   no such GPU, model, preset: names the nearest ones
    +-- HostError                   3   this machine cannot do it: compiler, kernel, permissions, a busy port
    +-- RunError                    4   the run started and could not go on
    |   +-- DeadlockError           4   every thread waits and nothing will wake one
    |   +-- ProtocolMismatchError   4   two parts of Revati of different versions met
    |   +-- CoordinatorLostError    4   the coordinator of a run is gone

A command that ran and failed by itself gives its own exit code; Ctrl-C gives 130.
The command line prints one sentence and no traceback for all of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "CoordinatorLostError",
    "DeadlockError",
    "HostError",
    "ProtocolMismatchError",
    "RevatiError",
    "RunError",
    "UnknownNameError",
    "UsageError",
]


class RevatiError(Exception):
    """Base of all errors of Revati; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class UsageError(RevatiError):
    """What the user asked for is wrong or contradicts itself."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is in no catalogue; the message lists the nearest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4) or names[:12]
        super().__init__(f"unknown {kind} '{name}'; did you mean {' or '.join(near)}?")


class HostError(RevatiError):
    """This machine lacks something: compiler, kernel feature, permission, a free port."""

    exit_code = 3


class RunError(RevatiError):
    """A run that had started could not go on."""

    exit_code = 4


class DeadlockError(RunError):
    """Every thread of the run waits and no deadline will wake one."""


class ProtocolMismatchError(RunError):
    """Two parts of Revati of different versions met; the message names both."""


class CoordinatorLostError(RunError):
    """The coordinator of a run is gone."""
