"""Two processes per run, so that whichever is killed leaves nothing behind.

The supervisor (the command that the user started) forks the coordinator and does nothing but wait. Both are
sub-reapers. If the coordinator dies, whatever it had started becomes the supervisor's child and is killed and reaped;
if the supervisor dies, the coordinator gets SIGTERM from the kernel and ends the run in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from revati_coordinator.rundir import base_directory, remove_directory
from revati_coordinator.shm import remove_orphans

__all__ = ["kill_tree", "supervise"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
KILL_LIMIT_S = 20.0


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in (task / "children").read_text().split())
    return found


def kill_tree() -> int:
    """Kills and reaps every descendant of this sub-reaper; returns how many processes were killed.

    A killed parent's children become ours, so the loop ends when none is left.
    """
    killed: set[int] = set()
    limit = time.monotonic() + KILL_LIMIT_S
    while (children := _children()) and time.monotonic() < limit:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)
    return len(killed)


def supervise(body: Callable[[], int]) -> int:
    """Runs `body` in a forked coordinator process and returns its exit code.

    Call it before any thread exists, and end with what it returns. Signals sent to the supervisor alone are passed on;
    a terminal's Ctrl-C reaches both processes by itself. They stay blocked when it returns: an impatient second Ctrl-C
    while the interpreter goes down would replace the exit code of an ordered end.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    handled = _FORWARDED | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    sys.stdout.flush()
    sys.stderr.flush()
    supervisor = os.getpid()
    coordinator = os.fork()
    if coordinator == 0:
        code = 1
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = body() if os.getppid() == supervisor else 1
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    began_s = time.time()
    status = _wait(coordinator, handled)
    left = kill_tree()
    if left:
        remove_orphans(began_s)
    with contextlib.suppress(Exception):
        remove_directory(base_directory(make=False) / str(coordinator))
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        sys.stderr.write(
            f"revati: the coordinator was killed by signal {number}; the run has ended"
            f"{f' and {left} processes of it were stopped' if left else ''}\n"
        )
        return 4
    return os.WEXITSTATUS(status)


def _wait(coordinator: int, handled: set[signal.Signals]) -> int:
    while True:
        info = signal.sigwaitinfo(handled)
        if info.si_signo == signal.SIGCHLD:
            with contextlib.suppress(ChildProcessError):
                while True:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                    if pid == coordinator:
                        return status
                    if pid == 0:
                        break
        elif info.si_pid != 0:  # 0: from the terminal, which told the coordinator too
            with contextlib.suppress(ProcessLookupError):
                os.kill(coordinator, info.si_signo)


def _command(argv: list[str]) -> int:
    """`python -m revati_coordinator.supervisor -- COMMAND`: runs a command and leaves no process of it behind."""
    if argv[:1] == ["--"]:
        argv = argv[1:]
    if not argv:
        sys.stderr.write("usage: python -m revati_coordinator.supervisor -- COMMAND ...\n")
        return 2

    def body() -> int:
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
            return 127

    return supervise(body)


if __name__ == "__main__":
    sys.exit(_command(sys.argv[1:]))
