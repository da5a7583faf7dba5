"""Engine steps in results: read from a log as the virtual device writes it, summed up, and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from revati.experiments.perfetto import trace_events
from revati.experiments.steps import load_steps, step_metrics
from revati_coordinator.host import extension_ffi


def write_log(path: Path, steps: list[dict[str, Any]]) -> None:
    ffi = extension_ffi()
    records = ffi.new("struct rvt_step[]", len(steps) + 1)  # the last one, of zeros, ends the log
    for record, step in zip(records, steps):
        for name, value in step.items():
            setattr(record, name, value)
    path.write_bytes(bytes(ffi.buffer(records)))


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    steps = []
    for i in range(5):
        start_ns = 1000 + 100 * i
        streams = [
            {"id": 8, "first_ns": start_ns + 10, "last_ns": start_ns + 100, "busy_ns": 90, "launches": 7},
            {"id": 3, "first_ns": start_ns + 60, "last_ns": start_ns + 70, "busy_ns": 10, "launches": 1},
        ]
        steps.append(
            {
                "index": i + 1,
                "observed_ns": start_ns,
                "nseq": i + 1,
                "decodes": i,
                "tokens": 10 * (i + 1),
                "padded": 64,
                "launches": 8,
                "family_ns": [0, 60, 30] + [0] * 10 + [10, 0, 0],
                "stream": streams,
            }
        )
    write_log(tmp_path / "12.steps", steps)
    return load_steps(tmp_path, 1100, 1400)


def test_steps_of_the_load_are_kept_with_times_after_its_start(rows: list[dict[str, Any]]) -> None:
    assert [row["time_ns"] for row in rows] == [0, 100, 200, 300]
    assert [row["sequences"] for row in rows] == [2, 3, 4, 5]
    assert rows[0]["family_ns"] == {"gemm": 60, "attention": 30, "copy": 10}
    assert rows[0]["streams"] == [[7, 10, 100, 90, 7], [2, 60, 70, 10, 1]]


def test_metrics_are_of_batches_and_of_the_busiest_stream(rows: list[dict[str, Any]]) -> None:
    metrics = step_metrics(rows)
    assert metrics["step.count"] == 4
    assert metrics["step.sequences.mean"] == 3.5 and metrics["step.tokens.p50"] == 35
    assert metrics["step.gpu_ms.mean"] == pytest.approx(90e-6)
    assert step_metrics([]) == {}


def test_trace_shows_steps_and_streams(rows: list[dict[str, Any]]) -> None:
    result = {"case": {"name": "c"}, "digest": "d", "requests": [], "samples": [], "statistics": {}, "steps": rows}
    events = trace_events(result)["traceEvents"]
    steps = [event for event in events if event.get("cat") == "step"]
    assert [(event["ts"], event["dur"]) for event in steps] == [(0, 0.1), (0.1, 0.1), (0.2, 0.1), (0.3, 0.1)]
    assert sum(event.get("cat") == "stream" for event in events) == 8
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {"engine 0: steps", "engine 0: stream 2", "engine 0: stream 7"}
