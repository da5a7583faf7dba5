"""Metrics: hand-computed values, and the deadline rule against an independent formulation."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy
import pytest

from revati.experiments.case import Case
from revati.experiments.drivers.records import RequestRecord
from revati.experiments.metrics import compute, deadlines, server_metrics
from revati.experiments.stats import PERCENTILES, Values

Maker = Callable[..., Case]
MS = 1_000_000


def record(
    name: str, sent_ms: float, *token_ms: float, counts: list[int] | None = None, klass: str = "chat"
) -> RequestRecord:
    counts = counts or [1] * len(token_ms)
    return RequestRecord(
        id=f"{klass}/{name}/0",
        klass=klass,
        session=int(name),
        call=0,
        planned_ns=round(sent_ms * MS),
        sent_ns=round(sent_ms * MS),
        input_tokens=10,
        output_tokens_asked=sum(counts),
        token_ns=[round(time * MS) for time in token_ms],
        token_counts=counts,
        end_ns=round((token_ms[-1] if token_ms else sent_ms) * MS),
        prompt_tokens=10,
        output_tokens=sum(counts),
        error=None if token_ms else "HTTP 500",
    )


def test_latencies_of_two_requests_by_hand(fake_case: Maker) -> None:
    metrics = compute(fake_case(), [record("0", 0, 50, 60, 80), record("1", 100, 190, 200)])
    assert metrics["ttft_ms.mean"] == pytest.approx((50 + 90) / 2)
    assert metrics["tpot_ms.mean"] == pytest.approx(((80 - 50) / 2 + 10) / 2)
    assert metrics["e2e_ms.max"] == pytest.approx(100)
    assert metrics["itl_ms.max"] == pytest.approx(20)
    assert metrics["itl_ms.mean"] == pytest.approx((10 + 20 + 10) / 3)
    assert metrics["normalised_ms.mean"] == pytest.approx((80 / 3 + 100 / 2) / 2)
    assert metrics["duration_s"] == pytest.approx(0.2)
    assert metrics["throughput.output_tokens_per_s"] == pytest.approx(5 / 0.2)
    # TTFT 50 and 90 are within 100 ms; TPOT 15 and 10 are not within 8 ms.
    assert metrics["goodput.ratio"] == 0


def test_a_failed_request_counts_as_sent_and_as_missed(fake_case: Maker) -> None:
    metrics = compute(fake_case(), [record("0", 0, 50, 55), record("1", 100)])
    assert (metrics["requests.sent"], metrics["requests.ok"], metrics["requests.failed"]) == (2, 1, 1)
    assert metrics["goodput.ratio"] == 0.5


def test_classes_are_judged_by_their_own_slo(fake_case: Maker) -> None:
    slow = {
        "arrival": {"kind": "at_once"},
        "input_tokens": 5,
        "output_tokens": 2,
        "slo": {"ttft_ms": 1000, "tpot_ms": 100},
    }
    case = fake_case({"workload": {"classes": {"batch": slow}}})
    late = record("0", 0, 500, 550, klass="batch")
    metrics = compute(case, [late, record("0", 0, 500, 505)])
    assert metrics["class.batch.goodput.ratio"] == 1
    assert metrics["class.chat.goodput.ratio"] == 0
    assert metrics["goodput.ratio"] == 0.5


def test_no_requests_give_no_latencies(fake_case: Maker) -> None:
    metrics = compute(fake_case(), [])
    assert metrics["requests.sent"] == 0
    assert not any(name.startswith("ttft") for name in metrics)


@pytest.mark.parametrize(
    ("tokens", "missed", "total"),
    [
        ([100, 110, 120], 0, 3),  # exactly on time
        ([50, 105, 115], 0, 3),  # an early first token gives 50 ms of slack
        ([50, 165, 175], 6, 8),  # the second took 115 ms, 50 of them slack: six deadlines of 10 ms fit into the rest
        ([135, 145], 4, 5),  # first token 35 ms late: its own deadline and three more
        ([101, 111], 1, 2),
    ],
)
def test_deadlines_by_hand(tokens: list[float], missed: int, total: int) -> None:
    found = deadlines(record("0", 0, *tokens), 100 * MS, 10 * MS)
    assert (found.missed, found.total) == (missed, total)


def reference_deadlines(gaps_ms: list[int], ttft_ms: int, tbt_ms: int) -> tuple[int, int]:
    """The same rule by absolute deadlines instead of slack."""
    due, now, missed, total = ttft_ms, 0, 0, 0
    for index, gap in enumerate(gaps_ms):
        now += gap
        if now <= due:
            total += 1
            due += tbt_ms
            continue
        previous_due = due - (ttft_ms if index == 0 else tbt_ms)
        late = 1 + (now - due) // tbt_ms if index == 0 else (now - previous_due) // tbt_ms
        missed += late
        total += late
        due = now + tbt_ms
    return missed, total


def test_deadlines_against_absolute_times() -> None:
    source = random.Random(3)
    for _ in range(3000):
        gaps = [source.choice([1, 5, 9, 10, 11, 20, 35, 120]) for _ in range(source.randint(1, 30))]
        times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
        found = deadlines(record("0", 0, *times), 40 * MS, 10 * MS)
        assert (found.missed, found.total) == reference_deadlines(gaps, 40, 10)
        assert found.total >= len(gaps)


def test_percentiles_are_numpys() -> None:
    source = random.Random(1)
    numbers = [source.expovariate(0.1) for _ in range(997)]
    values = Values()
    for number in numbers:
        values.add(number)
    assert values.percentiles() == pytest.approx(list(numpy.percentile(numbers, PERCENTILES)))


def test_server_metrics_are_differences_over_the_load() -> None:
    samples = [
        {
            "time_ns": 0,
            "preemptions": 3,
            "prefix_queries": 100,
            "prefix_hits": 50,
            "steps": 10,
            "step_tokens": 100,
            "running": 0,
        },
        {
            "time_ns": 1,
            "preemptions": 4,
            "prefix_queries": 150,
            "prefix_hits": 60,
            "steps": 20,
            "step_tokens": 300,
            "running": 4,
        },
        {
            "time_ns": 2,
            "preemptions": 5,
            "prefix_queries": 200,
            "prefix_hits": 80,
            "steps": 30,
            "step_tokens": 500,
            "running": 2,
        },
    ]
    metrics = server_metrics([{key: float(value) for key, value in sample.items()} for sample in samples])
    assert metrics["server.preemptions"] == 2
    assert metrics["server.prefix_hit_ratio"] == pytest.approx(0.3)
    assert metrics["server.tokens_per_step"] == 20
    assert metrics["server.running.max"] == 4
    assert server_metrics([]) == {}
