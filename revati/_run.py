"""Composition of a run: page, predictor, coordinator, program. Used by `revati run`, the demo and the experiments."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revati._awake import keep_awake
from revati._catalogue import GpuSet, fill_device_page
from revati._environment import run_environment
from revati._errors import DeadlockError, HostError, RunError, UsageError
from revati._hostcheck import check_host, preload_library
from revati._hostprofile import DEFAULT as DEFAULT_HOST_PROFILE
from revati._hostprofile import load_host_profile
from revati_coordinator.coordinator import Coordinator
from revati_coordinator.errors import CoordinatorError
from revati_coordinator.host import HostEnd, HostOptions, abi_version
from revati_coordinator.services import RunFacts
from revati_coordinator.use import DeviceUse

__all__ = ["Predictor", "Run", "RunOptions", "end_error", "parse_predictor", "refuse_nesting"]

# Equal in every run, so that logs and request ids that carry a date are equal too: 2026-01-01T00:00:00Z.
REPEATABLE_REALTIME_NS = 1_767_225_600 * 10**9
REPEATABLE_MONOTONIC_NS = 10**12


@dataclass(frozen=True)
class Predictor:
    """Where durations come from: kind 'constant' (constant_ns) or a kind that revati_predictors knows."""

    kind: str
    constant_ns: int = 0
    delay_ms: float = 0.0

    def __str__(self) -> str:
        return f"constant:{self.constant_ns / 1000:g}" if self.kind == "constant" else self.kind


def parse_predictor(text: str) -> Predictor:
    """Reads `roofline`, `auto` or `constant:MICROSECONDS`. Raises UsageError."""
    if text.startswith("constant:"):
        try:
            us = float(text.removeprefix("constant:"))
        except ValueError:
            us = -1.0
        if not 0 <= us < 1e9:
            raise UsageError(f"--predictor {text}: expected constant:MICROSECONDS, for example constant:50")
        return Predictor("constant", constant_ns=round(us * 1000))
    if text not in ("roofline", "auto"):
        raise UsageError(f"--predictor {text}: expected roofline, auto or constant:MICROSECONDS")
    return Predictor(text)


@dataclass(frozen=True)
class RunOptions:
    """One run. Times in the units that the names carry; None leaves the coordinator's default."""

    gpus: GpuSet
    policy: str = "modelled"
    host_profile: str = DEFAULT_HOST_PROFILE  # name or file; used by the policy `modelled`
    predictor: Predictor = field(default_factory=lambda: Predictor("auto"))
    seed: int = 0
    oracle: Path | None = None
    routing: str | None = None  # one of revati_predictors.ROUTINGS; None leaves the predictors' default
    command: str = ""
    listen_port: int | None = None
    order: str = "turns"  # who goes on at one virtual instant: everybody one by one, or whoever is "fired" so
    limit_virtual_s: float | None = None
    limit_real_s: float | None = None
    idle_is_legal: bool = False
    host_ratio: float = 1.0
    trace: bool = False
    grace_ms: int | None = None


def refuse_nesting(environment: Mapping[str, str]) -> None:
    """Raises UsageError inside an emulated process: a second coordinator there could never work."""
    if "REVATI_PAGE" in environment:
        raise UsageError("this shell already runs under Revati: a second coordinator inside a run is not possible")


class Run:
    """A started coordinator with its predictor. Use as a context manager.

    with Run(options) as run:
        argv = ["/path/to/vllm", "serve", ...]
        run.spawn(argv, run.environment(argv))
        run.start()
        end = run.wait()
    """

    def __init__(self, options: RunOptions) -> None:
        refuse_nesting(os.environ)
        check_host()
        self.options = options
        self._service: Any = None
        self._oracle: Path | None = None
        modelled = options.policy == "modelled"
        self.host_profile = load_host_profile(options.host_profile) if modelled else None
        limit_virtual, limit_real = options.limit_virtual_s, options.limit_real_s
        host_options = HostOptions(
            preload=str(preload_library()),
            policy=options.policy,
            order=options.order,
            charge_ppm=round(options.host_ratio * 1e6),
            start_ns=REPEATABLE_MONOTONIC_NS,
            realtime_start_ns=REPEATABLE_REALTIME_NS,
            limit_virtual_ns=None if limit_virtual is None else round(limit_virtual * 1e9),
            limit_real_ms=None if limit_real is None else round(limit_real * 1e3),
            deadlock_ms=-1 if options.idle_is_legal else None,
            grace_ms=options.grace_ms,
            trace=options.trace,
            keep_awake=keep_awake(os.environ),
        )
        gpus = options.gpus
        facts = RunFacts(
            pid=os.getpid(),
            policy=options.policy,
            gpu=f"{gpus.gpu.key}:{gpus.count}",
            command=options.command,
            predictor=str(options.predictor),
        )
        try:
            self.coordinator = Coordinator(host_options, facts, self._fill, options.listen_port)
        except CoordinatorError as error:
            raise HostError(str(error)) from error

    def _fill(self, page: Any, directory: Path) -> None:
        fill_device_page(page, self.options.gpus, abi_version())
        if self.host_profile is not None:
            self.host_profile.fill(page)
        self._write_oracle(directory)
        predictor = self.options.predictor
        page.constant_kernel_ns = predictor.constant_ns
        if predictor.kind == "constant" and not predictor.delay_ms:
            return
        from revati_predictors import PredictorService, load_predictor

        socket_path = directory / "predictor.sock"
        constant = predictor.constant_ns if predictor.kind == "constant" else None
        key = self.options.gpus.gpu.key
        source = load_predictor(key) if predictor.kind == "auto" else load_predictor(key, "roofline")
        self._service = PredictorService(
            source, socket_path, delay_s=predictor.delay_ms / 1000, constant_ns=constant
        ).start()
        if self.options.routing is not None:
            _route(self._service.pricer, self.options.routing)
        page.predictor_socket = os.fsencode(socket_path)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def environment(self, argv: Sequence[str], base: Mapping[str, str] | None = None) -> dict[str, str]:
        """What `argv` needs to run here, on top of `base` (default: this process's environment)."""
        return {**run_environment(os.environ if base is None else base, argv), **self._own_variables()}

    def _own_variables(self) -> dict[str, str]:
        return {"REVATI_ORACLE": str(self._oracle)} if self._oracle is not None else {}

    def _write_oracle(self, directory: Path) -> None:
        """The token oracle's configuration: the user's file with the run's seed in front."""
        seed, oracle = self.options.seed, self.options.oracle
        if not seed and oracle is None:
            return
        try:
            text = oracle.read_text(encoding="utf-8") if oracle is not None else ""
        except OSError as error:
            raise UsageError(f"--oracle {oracle}: {error.strerror}") from error
        self._oracle = directory / "oracle.conf"
        self._oracle.write_text(f"seed {seed}\n{text}", encoding="utf-8")

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None = None,
        fds: tuple[int, int, int] = (-1, -1, -1),
        main: bool = True,
    ) -> int:
        """Starts an enrolled program and returns its pid. Raises RunError."""
        try:
            return self.coordinator.spawn(argv, env, cwd, fds, main)
        except CoordinatorError as error:
            raise RunError(f"{shlex.join(argv[:1])} could not be started: {error}") from error

    def start(self) -> None:
        """Starts the clock and the services; commands that join later get the run's own variables."""
        try:
            self.coordinator.start(self._own_variables())
        except CoordinatorError as error:
            raise HostError(str(error)) from error

    def wait(self, tick: Callable[[], None] | None = None) -> HostEnd:
        return self.coordinator.wait(tick)

    def use(self) -> DeviceUse:
        return self.coordinator.use()

    @property
    def pricer(self) -> Any:
        """The service's revati_predictors Pricer; None with constant durations."""
        return self._service.pricer if self._service is not None else None

    def predictor_statistics(self) -> dict[str, Any]:
        """What the predictor was asked; empty with constant durations."""
        return dict(self._service.statistics()) if self._service is not None else {}

    def predictor_wait_s(self) -> float:
        """Wall time that the program waited for the predictor so far."""
        return float(self._service.pricer.statistics.waited_s) if self._service is not None else 0.0

    def close(self) -> None:
        self.coordinator.close()
        if self._service is not None:
            self._service.stop()


def _route(pricer: Any, routing: str) -> None:
    """Every model that is announced from now on routes its tokens so. Nothing has asked the pricer yet."""
    announce = pricer.announce
    pricer.announce = lambda facts: announce({**facts, "moe_distribution": routing})


def end_error(end: HostEnd) -> RunError | None:
    """The error that a run's end means, None when the program just ended or was stopped."""
    if end.reason in ("exit", "stopped"):
        return None
    return (DeadlockError if end.reason == "deadlock" else RunError)(end.text or f"the run ended: {end.reason}")
