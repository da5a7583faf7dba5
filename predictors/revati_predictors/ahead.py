"""What a framework will ask for, priced while nobody asks.

A framework tells its products and its attention while it starts: a profile run with its largest batch, captured
graphs. Later every prompt asks for all of them at its own length, and each such question holds the whole run up. A
server spends a minute starting, on one core; that is time enough for every length. No answer depends on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from revati_predictors.operators import Attention, Gemm, Mla, Moe, Operator
from revati_predictors.predictor import Predictor

if TYPE_CHECKING:
    from revati_predictors.pricing import Pricer

__all__ = ["Ahead", "ToCome", "Where"]

Where = tuple[int, int]  # (GPU, model)
_MOST = 100_000  # operators in all: half of what the pricer keeps
_AT_ONCE = 32  # operators; a question that comes meanwhile waits some milliseconds
_QUIET_S = 0.05

# All but the sizes that change from batch to batch.
_KIND: dict[type, Callable[[Operator], object]] = {
    Gemm: attrgetter("n", "k", "dtype", "quantised_input"),
    Moe: attrgetter("hidden", "inter", "topk", "experts", "tp", "ep", "dtype", "distribution"),
    Attention: attrgetter("heads_q", "heads_kv", "head_dim", "q_dtype", "kv_dtype", "window"),
    Mla: attrgetter("heads", "kv_dtype"),
}


class ToCome:
    """Operators like those that were asked, of other sizes: what the predictor says is worth it, each once."""

    def __init__(self) -> None:
        self._known: set[object] = set()
        self._lines: list[tuple[Where, Iterator[Operator]]] = []
        self._taken = 0
        self.more = threading.Event()

    def saw(self, where: Where, op: Operator, predictor: Predictor) -> None:
        """The first operator of a kind says what is to come of it."""
        kind_of = _KIND.get(type(op))
        if kind_of is None or (isinstance(op, Gemm) and op.batch > 1):
            return
        kind = (where, type(op), kind_of(op))
        if kind not in self._known:
            self._known.add(kind)
            self._lines.append((where, predictor.to_come(op)))
            self.more.set()

    def take(self) -> tuple[Where, list[Operator]] | None:
        """The next ones, all for one predictor; None when there are none left."""
        while self._lines:
            where, line = self._lines[0]
            some = list(islice(line, min(_AT_ONCE, _MOST - self._taken)))
            self._taken += len(some)
            if some:
                return where, some
            self.drop()
        self.more.clear()
        return None

    def drop(self) -> None:
        """Nothing more of the kind that was taken last."""
        self._lines.pop(0)


class Ahead(threading.Thread):
    """Prices what is to come whenever no question came for a while."""

    def __init__(self, pricer: Pricer) -> None:
        super().__init__(name="revati-predictor-ahead", daemon=True)
        self._pricer = pricer
        self._ended = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        asked = -1
        while not self._ended.wait(_QUIET_S):
            self._pricer.to_come.more.wait()
            while asked == self._pricer.asked and not self._ended.is_set() and self._pricer.price_ahead():
                pass
            asked = self._pricer.asked

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._ended.set()
        self._pricer.to_come.more.set()
        if self.is_alive():
            self.join(timeout=5)
