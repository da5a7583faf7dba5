"""Looks at the server's Prometheus page in virtual time."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from revati.experiments.drivers.client import Client

__all__ = ["look", "parse_metrics", "scrape_for_ever"]

# Our name: (names on the page, add up the series or take the largest)
_WANTED: dict[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions", "sglang:num_retracted_reqs"),
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_queries"),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_hits", "sglang:cached_tokens_total"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
    "generation_tokens": ("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
    "steps": ("vllm:iteration_tokens_total_count",),
    "step_tokens": ("vllm:iteration_tokens_total_sum",),
    "queue_s_sum": ("vllm:request_queue_time_seconds_sum", "sglang:queue_time_seconds_sum"),
    "queue_count": ("vllm:request_queue_time_seconds_count", "sglang:queue_time_seconds_count"),
    "prefill_s_sum": ("vllm:request_prefill_time_seconds_sum",),
    "decode_s_sum": ("vllm:request_decode_time_seconds_sum",),
}
_BY_PAGE_NAME = {page: ours for ours, pages in _WANTED.items() for page in pages}
_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^}]*\})?\s+(\S+)")


def parse_metrics(page: str) -> dict[str, float]:
    """The values that the report uses, summed over label sets (usage: the largest)."""
    values: dict[str, float] = {}
    for line in page.splitlines():
        match = _LINE.match(line)
        if match is None or match[1] not in _BY_PAGE_NAME:
            continue
        name, value = _BY_PAGE_NAME[match[1]], float(match[2])
        values[name] = max(values.get(name, 0.0), value) if name == "kv_usage" else values.get(name, 0.0) + value
    return values


async def scrape_for_ever(client: Client) -> None:
    """Looks at fixed virtual times after the start of the load, until cancelled."""
    interval_s = client.case.workload["scrape_s"]
    number = 1
    while interval_s > 0:
        await client.timer.sleep_until(client.start_ns + round(number * interval_s * 1e9))
        if not await look(client):
            return
        number += 1


async def look(client: Client) -> bool:
    """Writes one JSON line; False when the server has no such page or nobody wants it."""
    if client.case.workload["scrape_s"] <= 0:
        return False
    try:
        async with client.http.get(client.plan.url + "/metrics") as response:
            if response.status != 200:
                return False
            page = await response.text()
    except aiohttp.ClientError:
        return True  # the server may be going down: the next look or the load itself will tell
    client.samples.write(json.dumps({"time_ns": client.now_ns()} | parse_metrics(page)) + "\n")
    client.samples.flush()
    return True
