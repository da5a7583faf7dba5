"""From `vllm bench serve --save-result --save-detailed` to the demo's JSON and tables. Times in ms unless named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from revati._table import table
from revati_predictors.results import propagate

__all__ = ["METRICS", "build_result", "intervals", "percentile", "request_records", "tables"]

METRICS = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
STATISTICS = ("mean", "p50", "p90", "p99")


def percentile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics, as numpy's default; NaN for an empty sequence."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def request_records(bench: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record per request in order of sending, times as the client measured them, arrivals from the first."""
    starts = bench["start_times"]
    first = min(starts) if starts else 0.0
    records = []
    for index, start in enumerate(starts):
        ttft, itls = bench["ttfts"][index], bench["itls"][index]
        tokens, error = bench["output_lens"][index], bench["errors"][index]
        e2e = ttft + sum(itls)
        records.append(
            {
                "index": index,
                "ok": not error,
                "error": error or None,
                "arrival_s": round(start - first, 9),
                "input_tokens": bench["input_lens"][index],
                "output_tokens": tokens,
                "ttft_ms": round(ttft * 1e3, 6),
                "tpot_ms": round((e2e - ttft) / (tokens - 1) * 1e3, 6) if tokens > 1 else None,
                "e2e_ms": round(e2e * 1e3, 6),
                "itl_ms": [round(value * 1e3, 6) for value in itls],
            }
        )
    return records


def build_result(
    records: Sequence[Mapping[str, Any]],
    duration_s: float,
    virtual_s: float,
    wall_s: float,
    gpu_time_share: Mapping[str, float],
) -> dict[str, Any]:
    """The demo's JSON: requests, metrics over the successful ones, throughput, times and GPU time by family."""
    good = [record for record in records if record["ok"]]
    values = {
        "ttft_ms": [r["ttft_ms"] for r in good],
        "tpot_ms": [r["tpot_ms"] for r in good if r["tpot_ms"] is not None],
        "itl_ms": [value for r in good for value in r["itl_ms"]],
        "e2e_ms": [r["e2e_ms"] for r in good],
    }
    output = sum(r["output_tokens"] for r in good)
    total = output + sum(r["input_tokens"] for r in good)
    return {
        "requests": list(records),
        "metrics": {name: _statistics(values[name]) for name in METRICS},
        "throughput": {
            "requests_per_s": len(good) / duration_s if duration_s else 0.0,
            "output_tokens_per_s": output / duration_s if duration_s else 0.0,
            "total_tokens_per_s": total / duration_s if duration_s else 0.0,
        },
        "completed": len(good),
        "failed": len(records) - len(good),
        "virtual_s": virtual_s,
        "wall_s": wall_s,
        "speedup": virtual_s / wall_s if wall_s else 0.0,
        "gpu_time_share": dict(gpu_time_share),
    }


def intervals(result: Mapping[str, Any], factors: Sequence[float], busy_ratio: float) -> dict[str, Any]:
    """[low, high] of every metric and rate from the predictor's 80 % interval; {} without one.

    To first order: latencies scale with GPU time, rates with the share of the load in which the GPUs were busy.
    """
    if not factors:
        return {}
    pair = (factors[0], factors[1])
    latencies: dict[str, Any] = {
        name: {k: None if v is None else list(propagate(v, pair)[1:]) for k, v in values.items()}
        for name, values in result["metrics"].items()
    }
    rates = {k: list(propagate(v, pair, busy_ratio, inverse=True)[1:]) for k, v in result["throughput"].items()}
    return {**latencies, "throughput": rates}


def _statistics(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return dict.fromkeys(STATISTICS)
    return {
        "mean": math.fsum(values) / len(values),
        "p50": percentile(values, 50),
        "p90": percentile(values, 90),
        "p99": percentile(values, 99),
    }


def tables(result: Mapping[str, Any]) -> str:
    """The final tables for the terminal."""
    rows = [
        [label, *["-" if (v := result["metrics"][name][s]) is None else f"{v:.2f}" for s in STATISTICS]]
        for name, label in (("ttft_ms", "TTFT ms"), ("tpot_ms", "TPOT ms"), ("itl_ms", "ITL ms"), ("e2e_ms", "E2E ms"))
    ]
    through = result["throughput"]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result["gpu_time_share"].items())
    lines = [
        table(["", *STATISTICS], rows, right=(1, 2, 3, 4)),
        "",
        f"requests     {result['completed']} completed, {result['failed']} failed",
        f"throughput   {through['requests_per_s']:.2f} requests/s, "
        f"{through['output_tokens_per_s']:.0f} output tokens/s",
        f"time         {result['virtual_s']:.3f} virtual s in {result['wall_s']:.2f} s: "
        f"{result['speedup']:.2f} times real time",
        f"GPU time     {shares}",
    ]
    sources = result.get("prediction", {}).get("coverage", {})
    if sources:
        lines.append("predictions  " + ", ".join(f"{name} {share:.1%}" for name, share in sources.items() if share))
    mean = result.get("prediction", {}).get("intervals", {}).get("tpot_ms", {}).get("mean")
    if mean:
        lines.append(f"80 % of the predictions' errors leave the mean TPOT within {mean[0]:.2f} to {mean[1]:.2f} ms")
    return "\n".join(lines)
