"""All classes of a case as streams: one ordered stream of open-loop sessions, and the closed-loop classes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from revati.experiments.case import Case
from revati.experiments.workloads.arrivals import arrival_times
from revati.experiments.workloads.model import NS_PER_S, Call, Session
from revati.experiments.workloads.random_streams import Draw, stream
from revati.experiments.workloads.servegen import servegen_sessions
from revati.experiments.workloads.traces import trace_sessions

__all__ = ["ClosedClass", "Workload"]


@dataclass(frozen=True)
class ClosedClass:
    """A class whose next session waits for the last one."""

    name: str
    concurrency: int
    sessions: Iterator[Session]
    think_s: Callable[[], float]


class Workload:
    """The load of a case. The streams can be consumed once."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.requests_max: int | None = case.workload["requests"]
        duration_s = case.workload["duration_s"]
        self.duration_ns: int | None = None if duration_s is None else round(duration_s * NS_PER_S)
        self.closed: list[ClosedClass] = []
        streams: list[Iterator[Session]] = []
        for name, section in case.workload["classes"].items():
            sessions = self._sessions(name, section)
            if section["requests"] is not None:
                sessions = itertools.islice(sessions, section["requests"])
            arrival = section["arrival"]
            if arrival is not None and arrival["kind"] == "closed":
                draw = Draw(arrival["think_s"], stream(case.seed, name, "think"), whole=False)
                self.closed.append(ClosedClass(name, arrival["concurrency"], sessions, draw))
            else:
                streams.append(sessions)
        self._open = heapq.merge(*streams, key=lambda session: (session.at_ns, session.klass, session.index))

    def open_sessions(self) -> Iterator[Session]:
        """Open-loop sessions of all classes by planned time, up to the duration (the count is the caller's)."""
        for session in self._open:
            if self.duration_ns is not None and session.at_ns >= self.duration_ns:
                return
            yield session

    def _sessions(self, name: str, section: dict[str, Any]) -> Iterator[Session]:
        arrival, trace, seed = section["arrival"], section["trace"], self._case.seed
        if arrival is not None and arrival["kind"] == "servegen":
            return servegen_sessions(
                arrival,
                self._case.path(arrival["trace_file"]),
                self._case.path(arrival["dataset_file"]),
                name,
                stream(seed, name, "arrival"),
                stream(seed, name, "lengths"),
            )
        if trace is not None:
            rows = trace_sessions(trace, self._case.path(trace["file"]), name)
            if arrival is None:
                return rows
            if arrival["kind"] == "closed":
                return (replace(session, at_ns=0) for session in rows)
            times = arrival_times(arrival, stream(seed, name, "arrival"))
            return (replace(session, at_ns=at_ns) for session, at_ns in zip(rows, times))
        return self._drawn(name, section)

    def _drawn(self, name: str, section: dict[str, Any]) -> Iterator[Session]:
        seed = self._case.seed
        arrival = section["arrival"]
        times: Iterator[int] = itertools.repeat(0)
        if arrival["kind"] != "closed":
            times = arrival_times(arrival, stream(seed, name, "arrival"))
        prompt = Draw(section["input_tokens"], stream(seed, name, "input"), whole=True)
        answer = Draw(section["output_tokens"], stream(seed, name, "output"), whole=True)
        prefix = section["prefix"]
        groups = stream(seed, name, "prefix")
        later = section["session"]
        count = Draw(
            later["calls"] if later else {"kind": "constant", "value": 1}, stream(seed, name, "calls"), whole=True
        )
        wait = Draw(later["wait_s"] if later else None, stream(seed, name, "wait"), whole=False)
        added = Draw(later["follow_up_tokens"] if later else None, stream(seed, name, "follow-up"), whole=True)
        for index, at_ns in enumerate(times):
            calls = []
            for turn in range(int(count())):
                key = f"u/{name}/{index}/{turn}"
                if turn == 0:
                    tokens = max(1, int(prompt()))
                    shared = min(prefix["tokens"], tokens) if prefix else 0
                    segments = [(f"p/{name}/{groups.randrange(prefix['groups'])}", shared)] if shared else []
                    if tokens > shared:
                        segments.append((key, tokens - shared))
                    calls.append(Call(tuple(segments), max(1, int(answer()))))
                else:
                    wait_ns = round(wait() * NS_PER_S)
                    calls.append(Call(((key, max(1, int(added()))),), max(1, int(answer())), wait_ns, fresh=False))
            yield Session(name, index, at_ns, tuple(calls))
