"""Prices of wire records: what the predictor service answers, and what it counts about its answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from revati_predictors.ahead import ToCome, Where
from revati_predictors.facts import NO_FACTS, ModelFacts
from revati_predictors.mapping import Resolved, resolve
from revati_predictors.operators import Gemm, Operator
from revati_predictors.predictor import EXTRAPOLATED, FALLBACK, SOURCE_NAMES, Estimate, Predictor
from revati_predictors.wire import FAMILY, MAX_OPERATORS, OPERATOR_SHIFT, OpRecord

__all__ = ["Pricer", "Statistics"]

Row = tuple[int, int, int, int, int, int]
_MEMO_LIMIT = 200_000
_PRODUCTS_KEPT = 8
_KV_WRITE_SHARE = 0.3  # a KV write never takes more than this of its attention operator


@dataclass
class Statistics:
    """What was asked. Times are those of one launch each: hits in the caller's memo never get here."""

    requests: int = 0
    records: int = 0
    # Not in as_dict: a memo's and the host's affairs, other ones in every run.
    priced: int = 0  # operators that the predictors were asked for
    waited_s: float = 0.0  # wall time from a request to its reply
    unmapped: dict[str, int] = field(default_factory=dict)
    by_family: dict[str, list[float]] = field(default_factory=dict)  # asked, microseconds, low and high microseconds
    by_source: dict[str, list[float]] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=lambda: {"": 0})  # extrapolated or fallback -> index, from 1

    def operator(self, label: str) -> int:
        """The index under which the device page sums this operator's time; the last one is for all that came late."""
        if label not in self.operators and len(self.operators) >= MAX_OPERATORS - 1:
            label = "other operators"
        return self.operators.setdefault(label, len(self.operators))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a report; `operators` names the entries of the device page's operator_ns."""
        return {
            "requests": self.requests,
            "records": self.records,
            "by_family": {k: _family_figures(v) for k, v in sorted(self.by_family.items())},
            "by_source": {k: {"asked": int(v[0]), "us": v[1]} for k, v in sorted(self.by_source.items())},
            "operators": list(self.operators),
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
    if len(weighted) == 1 and weighted[0][1] == 1.0:
        return weighted[0][0]
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
        self._of_model: dict[Where, Predictor] = {}
        self._announced: dict[str, int] = {}
        self._memo: dict[tuple[Where, Operator], Estimate] = {}
        self._products: dict[Where, dict[Gemm, int]] = {}  # with m = 0: rows when first asked for
        self._lock = threading.Lock()
        self.to_come = ToCome()
        self.asked = 0  # questions so far, counted when they begin to come
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

    def price_ahead(self) -> bool:
        """Prices some operators that may be asked for later; whether there were any left."""
        with self._lock:
            found = self.to_come.take()
            if found is None:
                return False
            where, ops = found
            try:
                self._ask(where, [op for op in ops if (where, op) not in self._memo])
            except Exception:  # a question that needs it raises again; one that nobody asks must not end the run
                self.to_come.drop()
            return True

    def _facts(self, record: OpRecord) -> ModelFacts:
        return self._models[record.model] if record.model < len(self._models) else NO_FACTS

    def _price(self, records: Sequence[OpRecord]) -> list[Row]:
        resolved = [resolve(record, self._facts(record)) for record in records]
        if self._constant_ns is not None:
            constant = self._constant_ns
            rows = [(constant, constant, constant, FAMILY[r.family], FALLBACK, 0) for r in resolved]
        else:
            self.statistics.priced += self._fill_memo(records, resolved)
            rows = [self._row(record, r) for record, r in zip(records, resolved)]
        self._count([asked for asked in zip(records, resolved, rows) if not asked[0].ahead])
        return rows

    def _where(self, record: OpRecord) -> Where:
        """(GPU, model): what besides the operator decides its duration."""
        return min(record.gpu, len(self._predictors) - 1), record.model if record.model < len(self._models) else 0

    def _predictor(self, where: Where) -> Predictor:
        """The GPU's predictor for the framework that runs the model."""
        if where not in self._of_model:
            predictor, facts = self._predictors[where[0]], self._models[where[1]]
            chooser = getattr(predictor, "for_framework", None)
            self._of_model[where] = (
                chooser(facts.framework, facts.version) if chooser and facts.framework else predictor
            )
        return self._of_model[where]

    def _fill_memo(self, records: Sequence[OpRecord], resolved: Sequence[Resolved]) -> int:
        """Asks the predictors for what the memo lacks; how many operators that were."""
        if len(self._memo) > _MEMO_LIMIT:
            self._memo.clear()
        wanted: dict[Where, dict[Operator, None]] = {}
        for record, r in zip(records, resolved):
            where = self._where(record)
            needs = wanted.setdefault(where, {})
            for op in [op for op, _ in r.parts] + (r.whole or []) + ([r.kv_write] if r.kv_write else []):
                if (where, op) not in self._memo:
                    needs[op] = None
                    self.to_come.saw(where, op, self._predictor(where))
                    if len(records) == 1:  # a launch; a graph asks for everything at once
                        needs.update(dict.fromkeys(self._products_beside(where, op)))
        for where, needs in wanted.items():
            self._ask(where, list(needs))
        return sum(map(len, wanted.values()))

    def _ask(self, where: Where, ops: Sequence[Operator]) -> None:
        for op, estimate in zip(ops, self._predictor(where).predict(ops) if ops else ()):
            self._memo[(where, op)] = estimate

    def _products_beside(self, where: Where, op: Operator) -> list[Operator]:
        """Products that had as many rows before: a step asks for them next, and together they cost as one.

        Not the rest: a prompt's logits have one row a sequence, its layers one a token.
        """
        if not isinstance(op, Gemm) or op.batch > 1:
            return []
        products, this = self._products.setdefault(where, {}), replace(op, m=0)
        if len(products) < _PRODUCTS_KEPT:
            products.setdefault(this, op.m)
        rows = products.get(this)
        beside = [replace(other, m=op.m) for other, first in products.items() if first == rows]
        return [other for other in beside if (where, other) not in self._memo]

    def _row(self, record: OpRecord, r: Resolved) -> Row:
        where = self._where(record)
        estimate = _combine([(self._memo[(where, op)], weight) for op, weight in r.parts])
        if r.whole is not None and r.kv_write is not None:
            whole = _combine([(self._memo[(where, op)], 1.0) for op in r.whole])
            write = min(self._memo[(where, r.kv_write)].us, _KV_WRITE_SHARE * whole.us)
            share = write / whole.us if whole.us > 0 else 0.0
            estimate = _scale(whole, share) if r.is_write else _scale(estimate, 1.0 - share)
        source = FALLBACK if r.guessed else estimate.source
        flags = r.flags
        if source >= EXTRAPOLATED:
            label = str(r.parts[0][0]) if r.parts and not record.name else record.name[:120] or r.family.lower()
            flags |= self.statistics.operator(label) << OPERATOR_SHIFT
        return (
            round(estimate.us * 1e3),
            round(estimate.lo_us * 1e3),
            round(estimate.hi_us * 1e3),
            FAMILY[r.family],
            source,
            flags,
        )

    def _count(self, asked: Sequence[tuple[OpRecord, Resolved, Row]]) -> None:
        stats = self.statistics
        stats.records += len(asked)
        for record, r, row in asked:
            us = row[0] / 1e3
            for table, key in ((stats.by_family, r.family.lower()), (stats.by_source, SOURCE_NAMES[row[4]])):
                entry = table.setdefault(key, [0.0, 0.0, 0.0, 0.0])
                for i, amount in enumerate((1.0, us, row[1] / 1e3, row[2] / 1e3)):
                    entry[i] += amount
            if r.family == "OTHER" and record.kind == 0 and len(stats.unmapped) < 1000:
                stats.unmapped[record.name[:200]] = stats.unmapped.get(record.name[:200], 0) + 1
