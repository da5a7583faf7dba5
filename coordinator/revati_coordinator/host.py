"""Typed wrapper of the C host loop (csrc/include/rvt_host.h): one `Host` is one run with one virtual clock.

Times are integer nanoseconds of the run's virtual MONOTONIC clock. All methods may be called from any thread; `run`
blocks without the GIL. Failures raise CoordinatorError with the C side's sentence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from revati_coordinator.errors import CoordinatorError

try:
    from revati_coordinator._host import ffi as _ffi
    from revati_coordinator._host import lib as _lib
except ImportError as _error:  # said once, where it is needed
    _ffi = _lib = None
    _missing: ImportError | None = _error
else:
    _missing = None

__all__ = [
    "FOREVER_NS",
    "POLICIES",
    "REASONS",
    "Host",
    "HostEnd",
    "HostOptions",
    "HostStatus",
    "ThreadState",
    "abi_version",
    "extension_ffi",
]

FOREVER_NS = 2**63 - 1
POLICIES = ("free", "modelled", "measured")
ORDERS = ("fired", "turns", "any")  # enum rvt_order
REASONS = ("none", "exit", "stopped", "deadlock", "stall", "limit", "error")
THREAD_STATES = ("starting", "running", "blocked", "spinning", "exiting", "actor")


@dataclass(frozen=True)
class HostOptions:
    """Names and units as in struct rvt_host_options; None leaves the C side's default."""

    preload: str
    policy: str = "free"
    charge_ppm: int | None = None
    order: str = "fired"
    realtime_start_ns: int | None = None
    start_ns: int | None = None
    limit_virtual_ns: int | None = None
    limit_real_ms: int | None = None
    stall_ms: int | None = None
    deadlock_ms: int | None = None
    grace_ms: int | None = None
    start_ms: int | None = None
    idle_stretch: int | None = None
    spin_polls: int | None = None
    spin_rounds: int | None = None
    trace: bool = False
    keep_awake: bool = False
    idle_timers: str | None = None


@dataclass(frozen=True)
class HostEnd:
    """How a run ended; `text` has the cause and, for deadlock and stall, one line per thread."""

    reason: str
    exit_code: int
    killed: int
    virtual_ns: int
    real_ns: int
    text: str


@dataclass(frozen=True)
class HostStatus:
    """A snapshot; fields as in struct rvt_host_status."""

    now_ns: int
    start_ns: int
    realtime_ns: int
    real_ns: int
    jumps: int
    fires: int
    rounds: int
    turns: int
    turns_lost: int
    aborts: int
    slow_proofs: int
    proof_ns: int
    threads_seen: int
    processes: int
    threads: int
    running: int
    spinning: int
    actors: int
    holds: int
    paused: bool
    ended: str

    @property
    def virtual_ns(self) -> int:
        """Virtual time since the start of the run."""
        return self.now_ns - self.start_ns


@dataclass(frozen=True)
class ThreadState:
    """One enrolled thread."""

    pid: int
    tid: int
    state: str
    deadline_ns: int
    order: int
    waits: int
    spins: int
    fired: int
    charged_ns: int
    process: str
    thread: str
    wait: str


def _text(array: Any) -> str:
    return _ffi.string(array).decode(errors="replace")  # type: ignore[no-any-return]


def _require() -> None:
    if _missing is not None:
        raise CoordinatorError(
            f"the coordinator's C part is not built ({_missing}); install with 'pip install .' and a C compiler"
        )


def extension_ffi() -> Any:
    """The cffi interface with the structures of the C headers. Raises CoordinatorError when it is not built."""
    _require()
    return _ffi


def abi_version() -> int:
    """Version of the shared page that this build speaks."""
    _require()
    return int(_lib.rvt_host_abi_version())


class Host:
    """One run: page, clock, processes."""

    def __init__(self, options: HostOptions) -> None:
        _require()
        self._keep: list[Any] = []
        self.held_by_user = False  # paused over the Control service: nobody else lets the clock go
        raw = _ffi.new("struct rvt_host_options *")
        raw.struct_bytes = _ffi.sizeof("struct rvt_host_options")
        raw.policy = POLICIES.index(options.policy)
        raw.order = ORDERS.index(options.order)
        raw.trace = int(options.trace)
        raw.keep_awake = int(options.keep_awake)
        raw.preload = self._chars(options.preload)
        raw.idle_timers = _ffi.NULL if options.idle_timers is None else self._chars(options.idle_timers)
        for name in (
            "charge_ppm", "realtime_start_ns", "start_ns", "limit_virtual_ns", "limit_real_ms", "stall_ms",
            "deadlock_ms", "grace_ms", "start_ms", "idle_stretch", "spin_polls", "spin_rounds",
        ):  # fmt: skip
            value = getattr(options, name)
            if value is not None:
                setattr(raw, name, value)
        self._raw = raw
        self._host = _lib.rvt_host_new(raw)
        if self._host == _ffi.NULL:
            raise self._failure()

    def _chars(self, text: str) -> Any:
        kept = _ffi.new("char[]", os.fsencode(text))
        self._keep.append(kept)
        return kept

    @staticmethod
    def _failure() -> CoordinatorError:
        error = _lib.rvt_host_error()
        text = _ffi.string(error).decode(errors="replace") if error != _ffi.NULL else ""
        return CoordinatorError(text or "the coordinator failed without a reason")

    def _checked(self, result: int) -> int:
        if result < 0:
            raise self._failure()
        return int(result)

    def close(self) -> None:
        """Kills what still runs and gives the page back. Idempotent."""
        host, self._host = self._host, _ffi.NULL
        if host != _ffi.NULL:
            _lib.rvt_host_free(host)

    @property
    def page_path(self) -> str:
        return str(_ffi.string(_lib.rvt_host_page_path(self._host)).decode())

    @property
    def device(self) -> Any:
        """`struct rvt_device_page *`: the catalogue part of the page, and what the run has used."""
        return _lib.rvt_host_device(self._host)

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None = None,
        fds: tuple[int, int, int] = (-1, -1, -1),
        main: bool = True,
    ) -> int:
        """Starts an enrolled program and returns its pid; the end of the main one ends the run."""
        arguments = [_ffi.new("char[]", os.fsencode(a)) for a in argv]
        variables = [_ffi.new("char[]", os.fsencode(f"{k}={v}")) for k, v in env.items()]
        argv_c = _ffi.new("char *[]", [*arguments, _ffi.NULL])
        env_c = _ffi.new("char *[]", [*variables, _ffi.NULL])
        cwd_c = _ffi.NULL if cwd is None else _ffi.new("char[]", os.fsencode(cwd))
        start = _lib.rvt_host_spawn if main else _lib.rvt_host_spawn_more
        cast = _ffi.cast
        pid = start(self._host, cast("const char *const *", argv_c), cast("const char *const *", env_c), cwd_c, *fds)
        return self._checked(pid)

    def exit_code(self, pid: int) -> int | None:
        """Exit code of a program started with main=False (128 + signal when killed), None while it runs."""
        code = _ffi.new("int *")
        return None if self._checked(_lib.rvt_host_exit_code(self._host, pid, code)) == 1 else int(code[0])

    def run(self) -> HostEnd:
        """Runs the clock until the end. Blocks; call it from one thread."""
        end = _ffi.new("struct rvt_host_end *")
        _lib.rvt_host_run(self._host, end)
        return HostEnd(
            REASONS[end.reason], end.exit_code, end.killed, end.virtual_ns, end.real_ns, _text(end.text).rstrip("\n")
        )

    def stop(self, why: str) -> None:
        reason = self._chars(why)
        _lib.rvt_host_stop(self._host, reason)

    def signal(self, signo: int) -> None:
        _lib.rvt_host_signal(self._host, signo)

    def actor_add(self, name: str) -> int:
        return self._checked(_lib.rvt_host_actor_add(self._host, os.fsencode(name)))

    def actor_wait(self, actor: int, t_ns: int) -> None:
        self._checked(_lib.rvt_host_actor_wait(self._host, actor, t_ns))

    def actor_join(self, actor: int, timeout_ms: int) -> bool:
        """Blocks for real time until the actor was fired. Raises CoordinatorError when the run has ended."""
        return self._checked(_lib.rvt_host_actor_join(self._host, actor, timeout_ms)) == 1

    def actor_run(self, actor: int) -> None:
        self._checked(_lib.rvt_host_actor_run(self._host, actor))

    def actor_remove(self, actor: int) -> None:
        self._checked(_lib.rvt_host_actor_remove(self._host, actor))

    def hold(self) -> None:
        _lib.rvt_host_hold(self._host)

    def release(self) -> None:
        self._checked(_lib.rvt_host_release(self._host))

    def pause(self) -> None:
        _lib.rvt_host_pause(self._host)

    def resume(self) -> None:
        _lib.rvt_host_resume(self._host)

    def step(self, jumps: int) -> None:
        _lib.rvt_host_step(self._host, jumps)

    def run_to(self, t_ns: int) -> None:
        _lib.rvt_host_run_to(self._host, t_ns)

    def now_ns(self) -> int:
        return int(_lib.rvt_host_now_ns(self._host))

    def status(self) -> HostStatus:
        raw = _ffi.new("struct rvt_host_status *")
        _lib.rvt_host_status_get(self._host, raw)
        names = [name for name in HostStatus.__dataclass_fields__ if name not in ("paused", "ended")]
        values = {name: int(getattr(raw, name)) for name in names}
        return HostStatus(**values, paused=bool(raw.paused), ended=REASONS[raw.ended])

    def threads(self, limit: int = 4096) -> list[ThreadState]:
        raw = _ffi.new("struct rvt_host_thread[]", limit)
        count = min(limit, self._checked(_lib.rvt_host_threads(self._host, raw, limit)))
        return [
            ThreadState(
                t.pid, t.tid, THREAD_STATES[t.state], t.deadline_ns, t.order, t.waits, t.spins, t.fired, t.charged_ns,
                _text(t.process), _text(t.thread), _text(t.wait),
            )
            for t in (raw[index] for index in range(count))
        ]  # fmt: skip
