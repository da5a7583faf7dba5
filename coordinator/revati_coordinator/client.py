"""Clients of the coordinator's services: `ControlClient` for commands, `ClockActor` to join the virtual clock."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc

from revati_coordinator.errors import CoordinatorError, NotRunningError
from revati_coordinator.generated import clock_pb2 as pb
from revati_coordinator.generated import clock_pb2_grpc as rpc
from revati_coordinator.services import PROTOCOL

__all__ = ["ClockActor", "ControlClient"]

TIMEOUT_S = 10.0


class ControlClient:
    """Control service of one run; `target` is a gRPC address such as unix:/run/user/1000/revati/4711/control.sock."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._stub = rpc.ControlStub(self._channel)

    def call(self, method: str, request: Any) -> Any:
        """Calls one method. Raises NotRunningError when nobody answers, CoordinatorError on another version."""
        try:
            reply = getattr(self._stub, method)(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise NotRunningError(f"the coordinator does not answer: {error.details()}") from error
        if isinstance(reply, pb.StatusReply) and reply.protocol != PROTOCOL:
            raise CoordinatorError(f"the coordinator speaks protocol {reply.protocol}, this command {PROTOCOL}")
        return reply

    def close(self) -> None:
        self._channel.close()


class ClockActor:
    """An actor in the virtual clock: the clock stands still except while this actor waits.

    >>> with ClockActor(target, "router") as actor:      # doctest: +SKIP
    ...     actor.wait_until(actor.now_ns() + 1_000_000_000)

    Times are nanoseconds of the run's virtual MONOTONIC clock. Methods may be called from several threads.
    """

    def __init__(self, target: str, name: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[Any]] = {}
        self._lock = threading.Lock()
        self._ended: str | None = None
        self._stream = rpc.ClockStub(self._channel).Session(self._requests())
        threading.Thread(target=self._read, name="revati-actor-read", daemon=True).start()
        self._ask(register=pb.Register(name=name, protocol=PROTOCOL))

    def _requests(self) -> Iterator[Any]:
        while (request := self._out.get()) is not None:
            yield request

    def _read(self) -> None:
        why = "the coordinator ended the stream"
        try:
            for reply in self._stream:
                with self._lock:
                    waiter = self._waiting.pop(reply.id, None)
                if waiter is not None:
                    waiter.put(reply)
        except grpc.RpcError as error:
            why = f"the coordinator is gone: {error.details()}"
        with self._lock:
            self._ended = why
            waiters, self._waiting = list(self._waiting.values()), {}
        for waiter in waiters:
            waiter.put(None)

    def _ask(self, **what: Any) -> Any:
        waiter: queue.SimpleQueue[Any] = queue.SimpleQueue()
        number = next(self._numbers)
        with self._lock:
            if self._ended:
                raise NotRunningError(self._ended)
            self._waiting[number] = waiter
        self._out.put(pb.ClockRequest(id=number, **what))
        reply = waiter.get()
        if reply is None:
            raise NotRunningError(self._ended or "the stream ended")
        if reply.error:
            raise CoordinatorError(reply.error)
        return reply

    def now_ns(self) -> int:
        return int(self._ask(now=pb.Now()).now_ns)

    def wait_until(self, t_ns: int) -> bool:
        """Waits for virtual time `t_ns`; False when another thread's `resume` ended the wait earlier."""
        return not self._ask(wait_until=pb.WaitUntil(t_ns=t_ns)).resumed

    def resume(self) -> None:
        self._ask(resume=pb.Resume())

    def hold(self) -> None:
        """The clock stands still until `release`."""
        self._ask(hold=pb.Hold())

    def release(self) -> None:
        self._ask(release=pb.Release())

    def close(self) -> None:
        """Leaves the clock. Idempotent."""
        with contextlib.suppress(CoordinatorError):
            self._ask(deregister=pb.Deregister())
        self._out.put(None)
        self._channel.close()

    def __enter__(self) -> ClockActor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
