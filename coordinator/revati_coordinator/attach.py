"""`revati join`: a command from another terminal is started by the coordinator, with that terminal's streams.

One unix stream socket, owner-only. The client sends one JSON line (argv, env, cwd) with its three standard streams
as file descriptors; the server answers JSON lines: {"pid": n}, later {"exit": code}, or {"error": text}. The client may
send {"signal": n} lines. A client that vanishes takes its command with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from revati_coordinator.errors import CoordinatorError, NotRunningError

__all__ = ["AttachServer", "attach"]

POLL_S = 0.05
MAX_MESSAGE_BYTES = 4 << 20

Spawn = Callable[[Sequence[str], Mapping[str, str], str, tuple[int, int, int]], int]
ExitCode = Callable[[int], "int | None"]


class AttachServer:
    """Listens on `path`; `spawn` starts a program and `exit_code` asks for its end."""

    def __init__(self, path: Path, spawn: Spawn, exit_code: ExitCode) -> None:
        self._spawn = spawn
        self._exit_code = exit_code
        self._count = threading.Lock()
        self.joined = 0  # commands that run now
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        os.chmod(path, 0o600)
        self._listener.listen(16)
        threading.Thread(target=self._accept, name="revati-attach", daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="revati-joined", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            try:
                message, fds = _receive_start(connection)
                try:
                    pid = self._spawn(message["argv"], message["env"], message["cwd"], (fds[0], fds[1], fds[2]))
                finally:
                    for fd in fds:
                        os.close(fd)
            except (CoordinatorError, ValueError, KeyError, IndexError) as error:
                _send(connection, {"error": str(error)})
                return
            self._add(1)
            try:
                _send(connection, {"pid": pid})
                self._follow(connection, pid)
            finally:
                self._add(-1)

    def _add(self, number: int) -> None:
        with self._count:
            self.joined += number

    def _follow(self, connection: socket.socket, pid: int) -> None:
        lines = b""
        while True:
            code = self._exit_code(pid)
            if code is not None:
                _send(connection, {"exit": code})
                return
            if not select.select([connection], [], [], POLL_S)[0]:
                continue
            data = connection.recv(4096)
            if not data:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                return
            lines += data
            while b"\n" in lines:
                line, lines = lines.split(b"\n", 1)
                with contextlib.suppress(ProcessLookupError, ValueError, KeyError):
                    os.kill(pid, int(json.loads(line)["signal"]))


def _receive_start(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, fds, _, _ = socket.recv_fds(connection, 65536, 3)
    while b"\n" not in data and len(data) < MAX_MESSAGE_BYTES:
        more = connection.recv(65536)
        if not more:
            break
        data += more
    message = json.loads(data)
    if len(fds) != 3:
        raise ValueError("the joining command sent no standard streams")
    return message, list(fds)


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def attach(path: Path, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> int:
    """Runs a command in the clock of the coordinator behind `path`, with this process's streams; returns its exit code.

    SIGINT, SIGTERM and SIGHUP are passed on. Raises NotRunningError when the coordinator is gone.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError as error:
        raise NotRunningError(f"the coordinator does not answer at {path}") from error
    with connection:
        message = json.dumps({"argv": list(argv), "env": dict(env), "cwd": cwd}).encode() + b"\n"
        sent = socket.send_fds(connection, [message[:65536]], [0, 1, 2])
        connection.sendall(message[sent:])

        def forward(number: int, _: object) -> None:
            with contextlib.suppress(OSError):
                _send(connection, {"signal": number})

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, forward)
        data = b""
        while True:
            more = connection.recv(4096)
            if not more:
                raise NotRunningError("the run ended before the command did")
            data += more
            while b"\n" in data:
                line, data = data.split(b"\n", 1)
                reply = json.loads(line)
                if "error" in reply:
                    raise CoordinatorError(str(reply["error"]))
                if "exit" in reply:
                    return int(reply["exit"])
