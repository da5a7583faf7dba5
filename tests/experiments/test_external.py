"""Benchmark clients of others: their commands, their exports, and the real ones where they are installed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revati import RunError, UsageError
from revati.experiments.bench import run_case
from revati.experiments.case import Case
from revati.experiments.drivers.external import client_command, read_report
from revati.experiments.drivers.records import read_records
from revati.experiments.metrics import compute
from revati.experiments.runner import EmulatedRunner, NativeRunner, Runner

Maker = Callable[..., Case]


def driver_case(make: Maker, driver: str, **more: Any) -> Case:
    chat = {"arrival": {"kind": "closed", "concurrency": 3, "think_s": None}} | more
    return make(
        {
            "workload": {"driver": driver, "executable": "/bin/true", "classes": {"chat": chat}},
            "model": {"path": os.environ.get("REVATI_TEST_TOKENIZER", "some-tokenizer"), "served_name": "fake"},
        }
    )


@pytest.mark.parametrize("driver", ["vllm-bench", "sglang-bench", "aiperf", "guidellm"])
def test_what_a_driver_cannot_express_is_said(fake_case: Maker, tmp_path: Path, driver: str) -> None:
    session = {"calls": 2, "wait_s": 1, "follow_up_tokens": 5}
    for more, words in (
        ({"session": session}, "sessions of several calls"),
        ({"input_tokens": {"kind": "lognormal", "median": 9, "sigma": 1}}, "input_tokens that vary like this"),
        (
            {"arrival": {"kind": "spikes", "base_per_s": 1, "spike_per_s": 2, "every_s": 3, "width_s": 1}},
            "arrival kind 'spikes'",
        ),
    ):
        with pytest.raises(UsageError, match=f"driver '{driver}' cannot express {words}"):
            client_command(driver_case(fake_case, driver, **more), tmp_path, "http://x", "m")


def test_the_load_reaches_the_command(fake_case: Maker, tmp_path: Path) -> None:
    def command(driver: str, **more: Any) -> str:
        return " ".join(client_command(driver_case(fake_case, driver, **more), tmp_path, "http://h:1", "m").command)

    text = command("vllm-bench")
    assert "--max-concurrency 3" in text and "--random-input-len 128" in text and "--num-prompts 20" in text
    text = command("aiperf", arrival={"kind": "gamma", "rate_per_s": 4, "burstiness": 0.5})
    assert (
        "--arrival-pattern gamma --arrival-smoothness 0.5" in text
        and "--isl 128" in text
        and "--request-count 20" in text
    )
    text = command("guidellm", arrival={"kind": "poisson", "rate_per_s": 4})
    assert "kind=poisson,rate=4" in text and "prompt_tokens=128,output_tokens=12" in text


def bench_export() -> dict[str, Any]:
    return {
        "duration": 2.0,
        "mean_ttft_ms": 75.0,
        "input_lens": [10, 20, 30],
        "output_lens": [3, 2, 0],
        "ttfts": [0.05, 0.1, 0.0],
        "itls": [[0.01, 0.02], [0.03], []],
        "start_times": [100.0, 100.5, 101.0],
        "errors": ["", "", "HTTP 500"],
    }


def test_an_export_of_the_frameworks_own_client(fake_case: Maker, tmp_path: Path) -> None:
    case = driver_case(fake_case, "vllm-bench")
    (tmp_path / "driver.json").write_text(json.dumps(bench_export()))
    report = read_report(case, tmp_path)
    records = list(read_records(report.requests_file))
    assert [record.sent_ns for record in records] == [0, 500_000_000, 1_000_000_000]
    assert records[0].token_ns == [50_000_000, 60_000_000, 80_000_000]
    assert records[2].error == "HTTP 500"
    metrics = compute(case, records, report.duration_ns)
    assert metrics["ttft_ms.mean"] == pytest.approx(75)
    assert metrics["throughput.requests_per_s"] == pytest.approx(1)
    assert report.summary["mean_ttft_ms"] == 75.0


def test_an_export_of_another_form_names_the_driver(fake_case: Maker, tmp_path: Path) -> None:
    (tmp_path / "driver.json").write_text(json.dumps({"duration": 1}))
    with pytest.raises(RunError, match="the report of vllm-bench has another form than expected"):
        read_report(driver_case(fake_case, "vllm-bench"), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("runner", [NativeRunner, EmulatedRunner])
@pytest.mark.parametrize("driver", ["aiperf", "guidellm"])
def test_the_clients_own_report_equals_ours(
    fake_case: Maker, tmp_path: Path, driver: str, runner: Callable[[], Runner]
) -> None:
    """Needs the client (REVATI_TEST_AIPERF, REVATI_TEST_GUIDELLM or PATH) and a local tokenizer directory."""
    program = os.environ.get(f"REVATI_TEST_{driver.upper()}") or shutil.which(driver)
    if program is None or "REVATI_TEST_TOKENIZER" not in os.environ:
        pytest.skip(f"{driver} is not installed, or REVATI_TEST_TOKENIZER is not set")
    case = driver_case(fake_case, driver)
    case.data["workload"]["executable"] = program
    case.data["limits"] |= {"wall_s": 400, "ready_wall_s": 120}
    result = run_case(case, tmp_path, runner())
    ours, theirs = result["metrics"], result["driver_report"]
    assert ours["requests.ok"] == 20
    names = {
        "aiperf": ("avg", "time_to_first_token", "inter_token_latency", "request_latency"),
        "guidellm": ("mean", "time_to_first_token_ms", "inter_token_latency_ms", None),
    }[driver]
    statistic, ttft, tpot, whole = names
    assert theirs[str(ttft)][statistic] == pytest.approx(ours["ttft_ms.mean"], abs=0.002)
    assert theirs[str(tpot)][statistic] == pytest.approx(ours["tpot_ms.mean"], abs=0.002)
    if whole is not None:
        assert theirs[whole][statistic] == pytest.approx(ours["e2e_ms.mean"], abs=0.002)
        assert theirs[str(ttft)]["p99"] == pytest.approx(ours["ttft_ms.p99"], abs=0.002)
