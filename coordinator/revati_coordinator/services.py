"""The gRPC services of coordinator/proto/clock.proto over one Host."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from revati_coordinator.errors import CoordinatorError
from revati_coordinator.generated import clock_pb2 as pb
from revati_coordinator.generated import clock_pb2_grpc as rpc
from revati_coordinator.host import Host
from revati_coordinator.metrics import prometheus_text
from revati_coordinator.use import read_use

__all__ = ["PROTOCOL", "RunFacts", "serve"]

PROTOCOL = 1
MAX_SESSIONS = 256


@dataclass(frozen=True)
class RunFacts:
    """What the status of a run says beside its numbers."""

    pid: int
    policy: str
    gpu: str
    command: str
    predictor: str


class _Session:
    """One Clock stream: an actor from Register to the end of the stream."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._actor = -1
        self._holds = 0
        self._wait_id: int | None = None
        self._lock = threading.Lock()
        self.replies: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def reply(self, number: int, **fields: Any) -> None:
        self.replies.put(pb.ClockReply(id=number, now_ns=self._host.now_ns(), **fields))

    def handle(self, request: Any) -> None:
        what = request.WhichOneof("what")
        if what == "register":
            self._register(request)
        elif self._actor < 0:
            self.reply(request.id, error="the first message of a Clock stream must be Register")
        elif what is None:
            self.reply(request.id, error="an empty request")
        else:
            try:
                getattr(self, f"_{what}")(request)
            except CoordinatorError as error:
                self.reply(request.id, error=str(error))

    def _register(self, request: Any) -> None:
        theirs = request.register.protocol
        if theirs != PROTOCOL:
            self.reply(request.id, error=f"this coordinator speaks protocol {PROTOCOL}, the client {theirs}")
        elif self._actor >= 0:
            self.reply(request.id, error="this stream is registered already")
        else:
            self._actor = self._host.actor_add(request.register.name or "actor")
            self.reply(request.id, protocol=PROTOCOL)

    def _now(self, request: Any) -> None:
        self.reply(request.id)

    def _wait_until(self, request: Any) -> None:
        with self._lock:
            if self._wait_id is not None:
                self.reply(request.id, error="this actor waits already; send Resume first")
                return
            self._wait_id = request.id
            self._host.actor_wait(self._actor, request.wait_until.t_ns)
        threading.Thread(target=self._await, args=(request.id,), name="revati-actor", daemon=True).start()

    def _await(self, number: int) -> None:
        """Waits for the clock beside the stream's reader, so that Resume and hang-ups are heard meanwhile."""
        while True:
            try:
                fired = self._host.actor_join(self._actor, 200)
            except CoordinatorError as error:
                if self._take(number):
                    self.reply(number, error=str(error))
                return
            with self._lock:
                if self._wait_id != number:
                    return
                if fired:
                    self._wait_id = None
                    self.reply(number)
                    return

    def _take(self, number: int) -> bool:
        with self._lock:
            mine = self._wait_id == number
            if mine:
                self._wait_id = None
            return mine

    def _resume(self, request: Any) -> None:
        with self._lock:
            waiting, self._wait_id = self._wait_id, None
            if waiting is not None:
                self._host.actor_run(self._actor)
                self.reply(waiting, resumed=True)
        self.reply(request.id)

    def _hold(self, request: Any) -> None:
        self._host.hold()
        self._holds += 1
        self.reply(request.id)

    def _release(self, request: Any) -> None:
        if not self._holds:
            self.reply(request.id, error="this actor holds nothing")
            return
        self._holds -= 1
        self._host.release()
        self.reply(request.id)

    def _deregister(self, request: Any) -> None:
        self.close()
        self.reply(request.id)
        self.replies.put(None)

    def close(self) -> None:
        """Leaves the clock: idempotent, also when the client just vanished."""
        with self._lock:
            actor, self._actor, self._wait_id = self._actor, -1, None
            holds, self._holds = self._holds, 0
        with contextlib.suppress(CoordinatorError):
            for _ in range(holds):
                self._host.release()
            if actor >= 0:
                self._host.actor_remove(actor)


class ClockService(rpc.ClockServicer):
    """Clock.Session."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def Session(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        session = _Session(self._host)

        def read() -> None:
            try:
                for request in requests:
                    session.handle(request)
            except Exception:  # the client broke off: grpc raises whatever it likes here
                pass
            finally:
                session.close()
                session.replies.put(None)

        threading.Thread(target=read, name="revati-clock", daemon=True).start()
        context.add_callback(lambda: session.replies.put(None))
        try:
            while (reply := session.replies.get()) is not None:
                yield reply
        finally:
            session.close()


class ControlService(rpc.ControlServicer):
    """Control: every method answers with the state after it took effect."""

    def __init__(self, host: Host, facts: RunFacts) -> None:
        self._host = host
        self._facts = facts

    def Status(self, request: Any, context: Any) -> Any:
        status = self._host.status()
        facts = self._facts
        use = read_use(self._host.device)
        return pb.StatusReply(
            protocol=PROTOCOL,
            pid=facts.pid,
            virtual_ns=status.virtual_ns,
            now_ns=status.now_ns,
            real_ns=status.real_ns,
            jumps=status.jumps,
            processes=status.processes,
            threads=status.threads,
            running=max(0, status.running),
            spinning=status.spinning,
            actors=status.actors,
            holds=status.holds,
            paused=status.paused,
            policy=facts.policy,
            gpu=facts.gpu,
            command=facts.command,
            predictor=facts.predictor,
            gpus=[
                pb.GpuUse(
                    name=gpu.name,
                    uuid=gpu.uuid,
                    bus_id=gpu.bus_id,
                    total_bytes=gpu.nvml_total_bytes,
                    used_bytes=gpu.used_bytes,
                    peak_bytes=gpu.peak_bytes,
                    busy_ns=gpu.busy_ns,
                    power_limit_w=gpu.power_limit_w,
                    clients=[
                        pb.GpuClient(pid=pid, used_bytes=used, name=_command_name(pid))
                        for pid, used in sorted(gpu.clients.items())
                    ],
                )
                for gpu in use.gpus
            ],
        )

    def Threads(self, request: Any, context: Any) -> Any:
        return pb.ThreadsReply(
            threads=[
                pb.ThreadState(
                    pid=t.pid, tid=t.tid, state=t.state, process=t.process, thread=t.thread, wait=t.wait,
                    deadline_ns=t.deadline_ns, fired=t.fired, waits=t.waits, charged_ns=t.charged_ns,
                )
                for t in self._host.threads()
            ]
        )  # fmt: skip

    def Metrics(self, request: Any, context: Any) -> Any:
        return pb.MetricsReply(text=prometheus_text(self._host.status(), read_use(self._host.device)))

    def Pause(self, request: Any, context: Any) -> Any:
        self._host.held_by_user = True
        self._host.pause()
        return self.Status(request, context)

    def Resume(self, request: Any, context: Any) -> Any:
        self._host.held_by_user = False
        self._host.resume()
        return self.Status(request, context)

    def Step(self, request: Any, context: Any) -> Any:
        self._host.held_by_user = True
        self._host.step(max(1, request.jumps))
        return self.Status(request, context)

    def RunTo(self, request: Any, context: Any) -> Any:
        self._host.held_by_user = True
        self._host.run_to(self._host.status().start_ns + request.t_ns)
        return self.Status(request, context)

    def Stop(self, request: Any, context: Any) -> Any:
        self._host.stop(request.why or "stopped by 'revati stop'")
        return self.Status(request, context)


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def serve(host: Host, facts: RunFacts, socket_path: Path, port: int | None = None) -> Any:
    """Starts both services on a unix socket, and on 127.0.0.1:`port` if given. Returns the grpc server.

    Raises CoordinatorError when the port is taken.
    """
    options = [("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", MAX_SESSIONS)]
    # A stream keeps a worker thread for its life.
    server = grpc.server(ThreadPoolExecutor(MAX_SESSIONS, "revati-grpc"), options=options)
    rpc.add_ClockServicer_to_server(ClockService(host), server)
    rpc.add_ControlServicer_to_server(ControlService(host, facts), server)
    server.add_insecure_port(f"unix:{socket_path}")
    if port is not None:
        try:
            bound = server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise CoordinatorError(f"port {port} on 127.0.0.1 is in use; choose another with --listen")
    server.start()
    return server
