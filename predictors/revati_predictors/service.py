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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revati_predictors.facts import NO_FACTS, ModelFacts
from revati_predictors.mapping import Resolved, resolve
from revati_predictors.operators import Operator
from revati_predictors.predictor import FALLBACK, SOURCE_NAMES, Estimate, Predictor
from revati_predictors.wire import (
    FAMILY,
    HEADER,
    MAX_REQUEST_BYTES,
    WIRE_MODEL,
    OpRecord,
    WireError,
    pack_predictions,
    unpack_records,
)

__all__ = ["PredictorService", "Pricer", "Statistics"]

Row = tuple[int, int, int, int, int, int]
_FAMILY_NAMES = {number: name.lower() for name, number in FAMILY.items()}
_MEMO_LIMIT = 200_000
_KV_WRITE_SHARE = 0.3  # a KV write never takes more than this of its attention operator


@dataclass
class Statistics:
    """What was asked. Times are those of one launch each: hits in the caller's memo never get here."""

    requests: int = 0
    records: int = 0
    priced: int = 0
    unmapped: dict[str, int] = field(default_factory=dict)
    by_family: dict[str, list[float]] = field(default_factory=dict)  # asked, microseconds, low and high microseconds
    by_source: dict[str, list[float]] = field(default_factory=dict)
    uncovered: dict[str, float] = field(default_factory=dict)  # operator -> microseconds, extrapolated or fallback

    def as_dict(self, top: int = 10) -> dict[str, Any]:
        """Plain data for a report; `uncovered` holds the `top` operators with the most uncovered time."""
        worst = sorted(self.uncovered.items(), key=lambda item: (-item[1], item[0]))[:top]
        return {
            "requests": self.requests,
            "records": self.records,
            "priced": self.priced,
            "by_family": {k: _family_figures(v) for k, v in sorted(self.by_family.items())},
            "by_source": {k: {"asked": int(v[0]), "us": v[1]} for k, v in sorted(self.by_source.items())},
            "uncovered": [{"operator": name, "us": us} for name, us in worst],
            "unmapped_kernels": dict(sorted(self.unmapped.items())),
        }


def _family_figures(sums: Sequence[float]) -> dict[str, float]:
    """asked, us, and the 80 % interval relative to it (what results.time_factors takes)."""
    asked, us, low, high = sums
    return {"asked": int(asked), "us": us, "low": low / us if us else 1.0, "high": high / us if us else 1.0}


def _combine(weighted: Sequence[tuple[Estimate, float]]) -> Estimate:
    """The weighted sum; its interval takes the parts as correlated, its source is that of the worst large part."""
    if not weighted:
        return Estimate(0.0, 0.0, 0.0, 0)
    us = sum(e.us * w for e, w in weighted)
    source = max((e.source for e, w in weighted if e.us * w >= 0.05 * us), default=0)
    return Estimate(us, sum(e.lo_us * w for e, w in weighted), sum(e.hi_us * w for e, w in weighted), source)


def _scale(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.us * factor, estimate.lo_us * factor, estimate.hi_us * factor, estimate.source)


class Pricer:
    """Prices wire records with one predictor for every GPU of the run; keeps the announced models."""

    def __init__(self, predictors: Sequence[Predictor], constant_ns: int | None = None) -> None:
        if not predictors:
            raise ValueError("the predictor service needs a predictor for at least one GPU")
        self._predictors = list(predictors)
        self._constant_ns = constant_ns
        self._models: list[ModelFacts] = [NO_FACTS]
        self._of_model: dict[tuple[int, int], Predictor] = {}
        self._announced: dict[str, int] = {}
        self._memo: dict[tuple[tuple[int, int], Operator], Estimate] = {}
        self._lock = threading.Lock()
        self.statistics = Statistics()

    def announce(self, facts: Mapping[str, Any]) -> int:
        """The index (> 0) of a model; equal facts get the same index. Raises ValueError for malformed facts."""
        parsed = ModelFacts.from_json(facts)
        key = repr(parsed)
        with self._lock:
            if key not in self._announced:
                self._models.append(parsed)
                self._announced[key] = len(self._models) - 1
            return self._announced[key]

    def price(self, records: Sequence[OpRecord]) -> list[Row]:
        """Rows (duration_ns, lo_ns, hi_ns, family, source, flags) in order."""
        with self._lock:
            return self._price(records)

    def _facts(self, record: OpRecord) -> ModelFacts:
        return self._models[record.model] if record.model < len(self._models) else NO_FACTS

    def _price(self, records: Sequence[OpRecord]) -> list[Row]:
        resolved = [resolve(record, self._facts(record)) for record in records]
        if self._constant_ns is not None:
            constant = self._constant_ns
            rows = [(constant, constant, constant, FAMILY[r.family], FALLBACK, 0) for r in resolved]
        else:
            self._fill_memo(records, resolved)
            rows = [self._row(record, r) for record, r in zip(records, resolved)]
        self._count(records, resolved, rows)
        return rows

    def _where(self, record: OpRecord) -> tuple[int, int]:
        """(GPU, model): what besides the operator decides its duration."""
        return min(record.gpu, len(self._predictors) - 1), record.model if record.model < len(self._models) else 0

    def _predictor(self, where: tuple[int, int]) -> Predictor:
        """The GPU's predictor for the framework that runs the model."""
        if where not in self._of_model:
            predictor, facts = self._predictors[where[0]], self._models[where[1]]
            chooser = getattr(predictor, "for_framework", None)
            self._of_model[where] = (
                chooser(facts.framework, facts.version) if chooser and facts.framework else predictor
            )
        return self._of_model[where]

    def _fill_memo(self, records: Sequence[OpRecord], resolved: Sequence[Resolved]) -> None:
        if len(self._memo) > _MEMO_LIMIT:
            self._memo.clear()
        wanted: dict[tuple[int, int], dict[Operator, None]] = {}
        for record, r in zip(records, resolved):
            where = self._where(record)
            needs = wanted.setdefault(where, {})
            for op in [op for op, _ in r.parts] + (r.whole or []) + ([r.kv_write] if r.kv_write else []):
                if (where, op) not in self._memo:
                    needs[op] = None
        for where, needs in wanted.items():
            ops = list(needs)
            for op, estimate in zip(ops, self._predictor(where).predict(ops) if ops else ()):
                self._memo[(where, op)] = estimate
            self.statistics.priced += len(ops)

    def _row(self, record: OpRecord, r: Resolved) -> Row:
        where = self._where(record)
        estimate = _combine([(self._memo[(where, op)], weight) for op, weight in r.parts])
        if r.whole is not None and r.kv_write is not None:
            whole = _combine([(self._memo[(where, op)], 1.0) for op in r.whole])
            write = min(self._memo[(where, r.kv_write)].us, _KV_WRITE_SHARE * whole.us)
            share = write / whole.us if whole.us > 0 else 0.0
            estimate = _scale(whole, share) if r.is_write else _scale(estimate, 1.0 - share)
        source = FALLBACK if r.guessed else estimate.source
        return (
            round(estimate.us * 1e3),
            round(estimate.lo_us * 1e3),
            round(estimate.hi_us * 1e3),
            FAMILY[r.family],
            source,
            r.flags,
        )

    def _count(self, records: Sequence[OpRecord], resolved: Sequence[Resolved], rows: Sequence[Row]) -> None:
        stats = self.statistics
        stats.records += len(records)
        for record, r, row in zip(records, resolved, rows):
            us = row[0] / 1e3
            for table, key in ((stats.by_family, r.family.lower()), (stats.by_source, SOURCE_NAMES[row[4]])):
                entry = table.setdefault(key, [0.0, 0.0, 0.0, 0.0])
                for i, amount in enumerate((1.0, us, row[1] / 1e3, row[2] / 1e3)):
                    entry[i] += amount
            if row[4] >= 2:
                label = record.name[:120] or _FAMILY_NAMES[row[3]]
                if r.parts and not record.name:
                    label = str(r.parts[0][0])
                stats.uncovered[label] = stats.uncovered.get(label, 0.0) + us
            if r.family == "OTHER" and record.kind == 0 and len(stats.unmapped) < 1000:
                stats.unmapped[record.name[:200]] = stats.unmapped.get(record.name[:200], 0) + 1


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
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()

    def start(self) -> PredictorService:
        """Listen. Raises OSError if the path is in use or too long for a unix socket (107 bytes)."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.socket_path))
        os.chmod(self.socket_path, 0o600)
        listener.listen(128)
        self._listener = listener
        self._thread = threading.Thread(target=self._accept, args=(listener,), name="revati-predictor", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection; remove the socket."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(timeout=5)
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
            with self._open_lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="revati-predictor-conn", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while True:
                head = _receive(connection, HEADER.size)
                if head is None:
                    return
                count, nbytes = HEADER.unpack(head)
                if nbytes > MAX_REQUEST_BYTES:
                    raise WireError(f"a request of {nbytes} bytes is over the limit of {MAX_REQUEST_BYTES}")
                body = _receive(connection, nbytes)
                if body is None:
                    return
                connection.sendall(self.answer(count, body))
        except (WireError, OSError):
            return  # the peer sees its connection closed, which the preload library reports as a lost predictor
        finally:
            with self._open_lock:
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
