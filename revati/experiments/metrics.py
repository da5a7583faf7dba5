"""Metrics of a run from its request records. docs/metrics.md says when each clock starts and stops.

Every metric is one number under one name, `group.statistic`; times are milliseconds. Names ending in a statistic of
a class are prefixed `class.NAME.`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from itertools import pairwise
from typing import Any

import yaml

from revati import UnknownNameError
from revati._catalogue import load_gpu
from revati.experiments.case import Case
from revati.experiments.drivers.records import RequestRecord
from revati.experiments.stats import Values

__all__ = ["Deadlines", "compute", "deadlines", "gpu_metrics", "server_metrics"]

_MS = 1e6
_LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "normalised_ms")


@dataclass(frozen=True)
class Deadlines:
    """Token deadlines of one or more requests."""

    missed: int
    total: int


def deadlines(record: RequestRecord, ttft_ns: int, tbt_ns: int) -> Deadlines:
    """Missed and total token deadlines after Etalon (Agrawal et al., arXiv 2407.07000).

    The first token is due ttft_ns after the request was sent, each later one tbt_ns after the one before it; an early
    token gives its slack to those that follow. A late token misses as many deadlines as fit into its lateness, and
    deadlines start anew from it. Tokens that arrive in one piece arrive together.
    """
    missed = total = slack = 0
    last_ns = record.sent_ns
    first = True
    for time_ns, count in zip(record.token_ns, record.token_counts):
        for _ in range(count):
            gap, last_ns = time_ns - last_ns, time_ns
            allowed = ttft_ns if first else tbt_ns
            if gap <= allowed + slack:
                slack += allowed - gap
                total += 1
            else:
                late = 1 + (gap - slack - ttft_ns) // tbt_ns if first else max(1, (gap - slack) // tbt_ns)
                missed += late
                total += late
                slack = 0
            first = False
    return Deadlines(missed, total)


@dataclass
class _Group:
    """Accumulates the requests of one class, or of all."""

    slo: dict[str, float | None]
    values: dict[str, Values] = field(default_factory=lambda: {name: Values() for name in (*_LATENCIES, "send_lag_ms")})
    sent: int = 0
    ok: int = 0
    within_slo: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    missed: int = 0
    deadlines: int = 0

    def add(self, record: RequestRecord) -> None:
        self.sent += 1
        if not record.ok:
            return
        self.ok += 1
        self.input_tokens += record.prompt_tokens if record.prompt_tokens is not None else record.input_tokens
        self.output_tokens += record.output_tokens
        self.cached_tokens += record.cached_tokens or 0
        seen = request_latencies(record)
        for name, value in seen.items():
            self.values[name].add(value)
        worst_ms = 0.0
        times = record.token_ns
        for before, after in pairwise(times if not record.coarse else ()):
            gap_ms = (after - before) / _MS
            worst_ms = max(worst_ms, gap_ms)
            self.values["itl_ms"].add(gap_ms)
        met = all(
            limit is None or value is None or value <= limit
            for limit, value in (
                (self.slo["ttft_ms"], seen["ttft_ms"]),
                (self.slo["tpot_ms"], seen.get("tpot_ms")),
                (self.slo["itl_ms"], worst_ms),
                (self.slo["e2e_ms"], seen["e2e_ms"]),
            )
        )
        ttft_ms, tbt_ms = self.slo["ttft_ms"], self.slo["tpot_ms"]
        if ttft_ms is not None and tbt_ms is not None and not record.coarse:
            due = deadlines(record, round(ttft_ms * _MS), max(1, round(tbt_ms * _MS)))
            self.missed += due.missed
            self.deadlines += due.total
            allowed = self.slo["deadline_miss_ratio"]
            met = met and (allowed is None or due.missed <= allowed * due.total)
        self.within_slo += met

    def metrics(self, duration_s: float) -> dict[str, float]:
        result: dict[str, float] = {
            "requests.sent": self.sent,
            "requests.ok": self.ok,
            "requests.failed": self.sent - self.ok,
            "tokens.input": self.input_tokens,
            "tokens.output": self.output_tokens,
            "tokens.cached": self.cached_tokens,
        }
        for name, values in self.values.items():
            result |= values.summary(name)
        if duration_s > 0:
            result["throughput.requests_per_s"] = self.ok / duration_s
            result["throughput.output_tokens_per_s"] = self.output_tokens / duration_s
            result["throughput.total_tokens_per_s"] = (self.input_tokens + self.output_tokens) / duration_s
        if any(limit is not None for limit in self.slo.values()):
            result["goodput.ratio"] = self.within_slo / self.sent if self.sent else 0.0
            if duration_s > 0:
                result["goodput.requests_per_s"] = self.within_slo / duration_s
        if self.deadlines:
            result["deadlines.missed"] = self.missed
            result["deadlines.miss_ratio"] = self.missed / self.deadlines
            result["fluidity.index"] = 1.0 - self.missed / self.deadlines
        return result


def request_latencies(record: RequestRecord) -> dict[str, float]:
    """Latencies of one finished request, ms."""
    first, last = record.token_ns[0], record.token_ns[-1]
    result = {
        "send_lag_ms": (record.sent_ns - record.planned_ns) / _MS,
        "ttft_ms": (first - record.sent_ns) / _MS,
        "e2e_ms": (last - record.sent_ns) / _MS,
        "normalised_ms": (last - record.sent_ns) / _MS / record.output_tokens,
    }
    if record.output_tokens > 1:
        result["tpot_ms"] = (last - first) / _MS / (record.output_tokens - 1)
    return result


def compute(case: Case, records: Iterable[RequestRecord], duration_ns: int | None = None) -> dict[str, float]:
    """Client-side metrics of all requests and of each class; the records are read once.

    The duration is the end of the last request unless the driver says it, because its records lack start times.
    """
    whole = _Group(dict(case.data["slo"]))
    groups = {
        name: _Group(dict(section["slo"] or case.data["slo"])) for name, section in case.workload["classes"].items()
    }
    end_ns = 0
    for record in records:
        end_ns = max(end_ns, record.end_ns)
        group = groups.setdefault(record.klass, _Group(dict(case.data["slo"])))
        group.add(record)
        # The whole is judged by each request's own class: goodput of a mix is the sum of its classes.
        whole.slo = group.slo
        whole.add(record)
    duration_s = (end_ns if duration_ns is None else duration_ns) / 1e9
    result = {"duration_s": duration_s} | whole.metrics(duration_s)
    if len(groups) > 1:
        for name, group in groups.items():
            result |= {f"class.{name}.{key}": value for key, value in group.metrics(duration_s).items()}
    return result


def server_metrics(samples: list[dict[str, float]]) -> dict[str, float]:
    """What the server's own metrics page said, as differences over the load or as means over its looks."""
    if len(samples) < 2:
        return {}
    first, last, during = samples[0], samples[-1], samples[1:]
    result: dict[str, float] = {}

    def grown(name: str) -> float | None:
        return last[name] - first.get(name, 0.0) if name in last else None

    for name, ours in (("preemptions", "server.preemptions"), ("steps", "server.steps")):
        value = grown(name)
        if value is not None:
            result[ours] = value
    queries, hits = grown("prefix_queries") or grown("prompt_tokens"), grown("prefix_hits")
    if queries and hits is not None:
        result["server.prefix_hit_ratio"] = hits / queries
    steps, tokens = grown("steps"), grown("step_tokens")
    if steps and tokens is not None:
        result["server.tokens_per_step"] = tokens / steps
    count, queued_s = grown("queue_count"), grown("queue_s_sum")
    if count and queued_s is not None:
        result["queue_ms.mean"] = queued_s / count * 1e3
    for name in ("running", "waiting", "kv_usage"):
        seen = [sample[name] for sample in during if name in sample]
        if seen:
            result[f"server.{name}.mean"] = sum(seen) / len(seen)
            result[f"server.{name}.max"] = max(seen)
    return result


def gpu_metrics(case: Case, statistics: dict[str, Any], duration_s: float, output_tokens: float) -> dict[str, float]:
    """Use of the GPUs, cost and energy; needs nothing but the duration for the cost."""
    result: dict[str, float] = {}
    count = case.data["device"]["count"]
    result["gpu.hours"] = count * duration_s / 3600
    table = yaml.safe_load((resources.files("revati.experiments") / "data" / "prices.yaml").read_text(encoding="utf-8"))
    gpu = _gpu(case)
    price = case.data["cost"]["usd_per_gpu_hour"]
    if price is None and gpu is not None:
        price = table["usd_per_gpu_hour"].get(gpu.key)
    if price is not None and output_tokens > 0:
        result["cost.usd_per_million_output_tokens"] = result["gpu.hours"] * price / output_tokens * 1e6
    busy_ns = statistics.get("gpu_busy_ns")
    if busy_ns and duration_s > 0:
        share = min(1.0, sum(busy_ns) / len(busy_ns) / (duration_s * 1e9))
        result["gpu.busy_ratio"] = share
        if gpu is not None:
            idle_w = gpu.power_limit_w * table["idle_power_share"]
            energy_j = count * duration_s * (idle_w + (gpu.power_limit_w - idle_w) * share)
            result["energy.kilojoule"] = energy_j / 1e3
            if output_tokens > 0:
                result["energy.joule_per_output_token"] = energy_j / output_tokens
    for family, value in statistics.get("families", {}).items():
        result[f"gpu_time.{family}_ms"] = value["time_ns"] / _MS
    return result


def _gpu(case: Case) -> Any:
    try:
        return load_gpu(case.data["device"]["gpu"])
    except UnknownNameError:
        if case.data["framework"]["name"] == "command":
            return None
        raise
