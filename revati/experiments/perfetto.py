"""A result as a trace for ui.perfetto.dev (JSON trace events), in virtual time: requests, engine steps, GPU streams,
server counters."""

from __future__ import annotations

import itertools
from typing import Any

__all__ = ["trace_events"]

_CLIENT, _SERVER, _GPU = 1, 2, 3


def trace_events(result: dict[str, Any]) -> dict[str, Any]:
    """The trace as JSON-able data; times are microseconds after the start of the load."""
    events: list[dict[str, Any]] = []
    for pid, name in ((_CLIENT, "client: requests"), (_SERVER, "server"), (_GPU, "virtual GPU")):
        events.append({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}})
    events.extend(_requests(result))
    events.extend(_counters(result))
    events.extend(_gpu(result))
    events.extend(_steps(result))
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"case": result["case"]["name"], "digest": result["digest"], "clock": "virtual"},
    }


def _requests(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each request on a free lane: the whole request, and inside it the wait for the first token and decoding."""
    events: list[dict[str, Any]] = []
    lanes: list[int] = []  # end of the last request of each lane, ns
    for row in sorted(result["requests"], key=lambda item: (item["sent_ns"], item["id"])):
        lane = next((index for index, end_ns in enumerate(lanes) if end_ns <= row["sent_ns"]), len(lanes))
        if lane == len(lanes):
            lanes.append(0)
            events.append(
                {
                    "ph": "M",
                    "name": "thread_name",
                    "pid": _CLIENT,
                    "tid": lane + 1,
                    "args": {"name": f"lane {lane + 1}"},
                }
            )
        lanes[lane] = row["end_ns"]
        arguments = {
            key: row[key]
            for key in ("klass", "input_tokens", "output_tokens", "cached_tokens", "error")
            if row[key] is not None
        }
        events.append(_slice(_CLIENT, row["id"], "request", lane + 1, row["sent_ns"], row["end_ns"], arguments))
        if row["token_ns"]:
            first, last = row["token_ns"][0], row["token_ns"][-1]
            events.append(_slice(_CLIENT, "first token", "phase", lane + 1, row["sent_ns"], first, {}))
            if last > first:
                events.append(_slice(_CLIENT, "decode", "phase", lane + 1, first, last, {}))
    return events


def _slice(
    pid: int, name: str, category: str, tid: int, start_ns: int, end_ns: int, arguments: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": pid,
        "tid": tid,
        "ts": start_ns / 1e3,
        "dur": max(0, end_ns - start_ns) / 1e3,
        "args": arguments,
    }


def _counters(result: dict[str, Any]) -> list[dict[str, Any]]:
    events = []
    for sample in result["samples"]:
        for key in ("running", "waiting", "kv_usage"):
            if key in sample:
                events.append(_counter(_SERVER, key, sample["time_ns"], {"value": sample[key]}))
    return events


def _gpu(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Share of time by operator family between two looks at the counters."""
    looks = result["statistics"].get("timeline") or []
    events = []
    for before, after in itertools.pairwise(looks):
        span = (after["time_ns"] - before["time_ns"]) * max(1, after["gpus"])
        if span > 0:
            shares = {
                name: (value - before["family_ns"].get(name, 0)) / span for name, value in after["family_ns"].items()
            }
            events.append(_counter(_GPU, "use by operator", before["time_ns"], shares))
    return events


def _steps(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each engine's steps, from announcement to announcement, and under the GPU what its streams did for them."""
    rows = result.get("steps") or []
    events, threads = [], set()
    for engine in sorted({row["engine"] for row in rows}):
        own = [row for row in rows if row["engine"] == engine]
        ends = [row["time_ns"] for row in own[1:]] + [max([s[2] for s in own[-1]["streams"]] + [own[-1]["time_ns"]])]
        for row, end_ns in zip(own, ends):
            name = f"{row['sequences']} sequences, {row['tokens']} tokens"
            arguments = {key: row[key] for key in ("sequences", "decodes", "tokens", "padded", "launches")}
            threads.add((_SERVER, engine + 1, f"engine {engine}: steps"))
            events.append(_slice(_SERVER, name, "step", engine + 1, row["time_ns"], end_ns, arguments))
            for stream, first_ns, last_ns, busy_ns, launches in row["streams"]:
                tid = 100 * (engine + 1) + stream
                threads.add((_GPU, tid, f"engine {engine}: stream {stream}"))
                work = {"busy_us": busy_ns / 1e3, "launches": launches}
                events.append(_slice(_GPU, name, "stream", tid, first_ns, last_ns, work))
    names = [
        {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}
        for pid, tid, name in sorted(threads)
    ]
    return names + events


def _counter(pid: int, name: str, time_ns: float, values: dict[str, float]) -> dict[str, Any]:
    return {"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": time_ns / 1e3, "args": values}
