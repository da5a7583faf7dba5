"""What runs inside the clock: start the server, wait until it answers, run the clients, stop the server.

Run as `python -m revati.experiments.session PLAN.json`, under `revati run` or plainly. Uses the standard library
only, so that it starts fast and in any environment. Waits here are virtual; limits in real time are the business of
whoever started this (`runner`), which reads the events that this writes line by line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ProcessPlan", "SessionPlan", "main"]

_SNAPSHOT_CPU_NS = 3_000_000_000


@dataclass(frozen=True)
class ProcessPlan:
    """One command with the variables added to its environment (None removes one); its output goes to a file."""

    command: list[str]
    log: str
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: str | None = None


@dataclass(frozen=True)
class SessionPlan:
    """Server, clients and where the events go."""

    server: ProcessPlan
    ready_url: str
    clients: list[ProcessPlan]
    events: str
    stop_virtual_s: float = 30.0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> SessionPlan:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        data["server"] = ProcessPlan(**data["server"])
        data["clients"] = [ProcessPlan(**item) for item in data["clients"]]
        return SessionPlan(**data)


class _Stop(Exception):
    """A signal asked for the end."""


class _Session:
    def __init__(self, plan: SessionPlan) -> None:
        self.plan = plan
        self.children: list[subprocess.Popen[bytes]] = []

    def event(self, name: str, **data: Any) -> None:
        line = json.dumps({"event": name, "virtual_ns": time.monotonic_ns()} | data) + "\n"
        with open(self.plan.events, "a", encoding="utf-8") as stream:
            stream.write(line)

    def start(self, process: ProcessPlan) -> subprocess.Popen[bytes]:
        merged = dict(os.environ) | dict(process.env)
        with open(process.log, "ab") as log:
            child = subprocess.Popen(
                process.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in merged.items() if value is not None},
                cwd=process.cwd,
            )
        self.children.append(child)
        return child

    def run(self) -> int:
        try:
            server = self.start(self.plan.server)
        except OSError as error:
            self.event("failed", message=f"cannot start the server: {self.plan.server.command[0]}: {error.strerror}")
            return 1
        self.event("server-started", pid=server.pid)
        if not self._wait_ready(server):
            return 1
        self.event("ready")
        snapshot("load-start")
        for process in self.plan.clients:
            if not self._client(process, server):
                return 1
        snapshot("load-end")
        self.event("load-finished")
        self.stop_all()
        self.event("stopped", server_code=server.returncode)
        return 0

    def _wait_ready(self, server: subprocess.Popen[bytes]) -> bool:
        pause_s = 0.25
        while True:
            code = server.poll()
            if code is not None:
                self.event(
                    "failed", message=f"the server ended with code {code} before it was ready", log=self.plan.server.log
                )
                return False
            if _answers(self.plan.ready_url):
                return True
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 5.0)

    def _client(self, process: ProcessPlan, server: subprocess.Popen[bytes]) -> bool:
        try:
            client = self.start(process)
        except OSError as error:
            self.event("failed", message=f"cannot start the client: {process.command[0]}: {error.strerror}")
            return False
        self.event("client-started", pid=client.pid)
        code = client.wait()
        self.event("client-ended", code=code)
        if code != 0:
            self.event("failed", message=f"the client ended with code {code}", log=process.log)
            return False
        if server.poll() is not None:
            message = f"the server ended with code {server.returncode} during the load"
            self.event("failed", message=message, log=self.plan.server.log)
            return False
        return True

    def stop_all(self) -> None:
        """Ends every child, kindly first."""
        for child in reversed(self.children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in reversed(self.children):
            try:
                child.wait(self.plan.stop_virtual_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def snapshot(name: str) -> None:
    """Asks the coordinator to keep its counters under this name; returns when it has.

    Waits by spinning: while this thread runs, the virtual clock stands still, and the counters belong to this moment.
    The bound is CPU time, which stays real. Without a coordinator there is nothing to ask.
    """
    directory = os.environ.get("REVATI_SNAPSHOTS")
    if not directory:
        return
    want, done = Path(directory) / f"{name}.want", Path(directory) / f"{name}.done"
    want.write_text("")
    limit_ns = time.process_time_ns() + _SNAPSHOT_CPU_NS
    while not done.exists() and time.process_time_ns() < limit_ns:
        pass


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _on_signal(number: int, frame: object) -> None:
    raise _Stop


def main(arguments: list[str]) -> int:
    session = _Session(SessionPlan.load(Path(arguments[0])))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    try:
        return session.run()
    except _Stop:
        session.event("failed", message="stopped by a signal")
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        session.stop_all()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
