"""The predictor service: answers the preload library's memo misses on a unix stream socket.

One thread per connection (a run has one connection per process). Requests may carry any number of records; equal
records are priced once. Nothing here is charged to virtual time, so a slow answer changes no result.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revati_predictors.ahead import Ahead
from revati_predictors.predictor import Predictor
from revati_predictors.pricing import Pricer
from revati_predictors.wire import (
    HEADER,
    MAX_REQUEST_BYTES,
    WIRE_MODEL,
    WireError,
    pack_predictions,
    unpack_records,
)

__all__ = ["PredictorService"]


class PredictorService:
    """The socket server around a Pricer, usable in-process.

    predictors: one for each GPU ordinal of the run, or a single one for all.
    delay_s: sleep this long before each answer (the test that host time never enters virtual time).
    constant_ns: answer this duration for everything.
    """

    def __init__(
        self,
        predictors: Predictor | Sequence[Predictor],
        socket_path: str | os.PathLike[str],
        *,
        delay_s: float = 0.0,
        constant_ns: int | None = None,
    ) -> None:
        many = list(predictors) if isinstance(predictors, (list, tuple)) else [predictors]
        self.pricer = Pricer(many, constant_ns)  # type: ignore[arg-type]
        self.socket_path = Path(socket_path)
        self._delay_s = delay_s
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._ahead: Ahead | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def start(self) -> PredictorService:
        """Listen. Raises OSError if the path is in use or too long for a unix socket (107 bytes)."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.socket_path))
        os.chmod(self.socket_path, 0o600)
        listener.listen(128)
        self._listener = listener
        self._thread = threading.Thread(target=self._accept, args=(listener,), name="revati-predictor", daemon=True)
        self._thread.start()
        self._ahead = Ahead(self.pricer)
        self._ahead.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection; remove the socket."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(timeout=5)
        if self._ahead is not None:
            self._ahead.stop()
        with contextlib.suppress(FileNotFoundError):
            self.socket_path.unlink()

    def __enter__(self) -> PredictorService:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def statistics(self) -> dict[str, Any]:
        """See Statistics.as_dict."""
        return self.pricer.statistics.as_dict()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="revati-predictor-conn", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while True:
                head = _receive(connection, HEADER.size)
                if head is None:
                    return
                began_s = time.perf_counter()
                self.pricer.asked += 1
                count, nbytes = HEADER.unpack(head)
                if nbytes > MAX_REQUEST_BYTES:
                    raise WireError(f"a request of {nbytes} bytes is over the limit of {MAX_REQUEST_BYTES}")
                body = _receive(connection, nbytes)
                if body is None:
                    return
                connection.sendall(self.answer(count, body))
                with self._lock:
                    self.pricer.statistics.waited_s += time.perf_counter() - began_s
        except (WireError, OSError):
            return  # the peer sees its connection closed, which the preload library reports as a lost predictor
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def answer(self, count: int, body: bytes) -> bytes:
        """The reply to one request. Raises WireError if the body does not follow the format."""
        if self._delay_s:
            time.sleep(self._delay_s)
        if count == WIRE_MODEL:
            try:
                return HEADER.pack(self.pricer.announce(json.loads(body)), 0)
            except (ValueError, AttributeError) as error:
                raise WireError(f"malformed model facts: {error}") from error
        records = unpack_records(body, count)
        self.pricer.statistics.requests += 1
        return pack_predictions(self.pricer.price(records))


def _receive(connection: socket.socket, nbytes: int) -> bytes | None:
    """Exactly `nbytes`, or None if the peer closed first."""
    parts = bytearray()
    while len(parts) < nbytes:
        chunk = connection.recv(min(1 << 20, nbytes - len(parts)))
        if not chunk:
            return None
        parts += chunk
    return bytes(parts)
