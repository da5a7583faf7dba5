"""One run: the host loop in a thread of its own, the run directory, the attach socket and the gRPC services.

    with Coordinator(options, facts, fill=write_catalogue) as run:
        run.spawn(["vllm", "serve", ...], env)
        run.start()
        end = run.wait()

`fill` gets the device part of the page and the run directory before anything starts.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from revati_coordinator.attach import AttachServer
from revati_coordinator.errors import CoordinatorError
from revati_coordinator.host import Host, HostEnd, HostOptions, HostStatus
from revati_coordinator.rundir import RunDirectory
from revati_coordinator.services import PROTOCOL, RunFacts, serve
from revati_coordinator.shm import remove_orphans
from revati_coordinator.use import DeviceUse, read_use

__all__ = ["Coordinator"]

JOIN_S = 0.1


class Coordinator:
    """Owns one virtual clock and every process in it."""

    def __init__(
        self,
        options: HostOptions,
        facts: RunFacts,
        fill: Callable[[Any, Path], None],
        listen_port: int | None = None,
    ) -> None:
        self.facts = facts
        self._began_s = time.time()
        self._listen_port = listen_port
        self._end: HostEnd | None = None
        self._thread: threading.Thread | None = None
        self._server: Any = None
        self._attach: AttachServer | None = None
        self.directory = RunDirectory(facts.pid)
        try:
            self.host = Host(options)
            fill(self.host.device, self.directory.path)
            self._environment: dict[str, str] = {}
        except BaseException:
            self.directory.remove()
            raise

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None = None,
        fds: tuple[int, int, int] = (-1, -1, -1),
        main: bool = True,
    ) -> int:
        """Starts an enrolled program; see Host.spawn."""
        return self.host.spawn(argv, env, cwd, fds, main)

    def start(self, run_environment: Mapping[str, str] | None = None) -> None:
        """Starts the clock and the services; `run_environment` is what joining commands get on top of their own."""
        self._environment = dict(run_environment or {})
        self._thread = threading.Thread(target=self._run, name="revati-clock", daemon=True)
        self._thread.start()
        control = self.directory.path / "control.sock"
        self._server = serve(self.host, self.facts, control, self._listen_port)
        attach = self.directory.path / "attach.sock"
        self._attach = AttachServer(attach, self._join, self.host.exit_code)
        self.directory.write_info(
            {
                "protocol": PROTOCOL,
                "pid": self.facts.pid,
                "policy": self.facts.policy,
                "gpu": self.facts.gpu,
                "command": self.facts.command,
                "control": f"unix:{control}",
                "attach": str(attach),
            }
        )

    def _run(self) -> None:
        self._end = self.host.run()

    def _join(self, argv: Sequence[str], env: Mapping[str, str], cwd: str, fds: tuple[int, int, int]) -> int:
        return self.host.spawn(argv, {**env, **self._environment}, cwd, fds, main=False)

    def wait(self, tick: Callable[[], None] | None = None) -> HostEnd:
        """Waits for the end of the run; `tick` is called about ten times a second of real time."""
        if self._thread is None:
            raise CoordinatorError("the run was not started")
        while self._thread.is_alive():
            self._thread.join(JOIN_S)
            if tick is not None:
                tick()
        if self._end is None:
            raise CoordinatorError("the host loop ended without a result")
        return self._end

    @property
    def joined(self) -> int:
        """Commands of other terminals that run now."""
        return self._attach.joined if self._attach is not None else 0

    @property
    def ended(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def stop(self, why: str) -> None:
        self.host.stop(why)

    def signal(self, number: int) -> None:
        """Passes a signal on to the main program."""
        self.host.signal(number)

    def status(self) -> HostStatus:
        return self.host.status()

    def use(self) -> DeviceUse:
        return read_use(self.host.device)

    def close(self) -> None:
        """Ends everything: the run if it still goes, the services, the directory. Idempotent."""
        if self._thread is not None and self._thread.is_alive():
            self.host.stop("the coordinator is closing")
            self._thread.join()
        if self._attach is not None:
            self._attach.close()
        if self._server is not None:
            self._server.stop(grace=0.2).wait()
        self.host.close()
        remove_orphans(self._began_s)
        self.directory.remove()


@contextlib.contextmanager
def signals_to(handler: Callable[[int], None], numbers: Sequence[signal.Signals]) -> Any:
    """While open, the given signals call `handler(number)` in the main thread."""
    before = {number: signal.signal(number, lambda received, _: handler(received)) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
