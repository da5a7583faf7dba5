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
from revati.experiments.case import Case, case_from_data
from revati.experiments.drivers.external import client_command, read_report
from revati.experiments.drivers.records import read_records
from revati.experiments.metrics import compute
from revati.experiments.runner import EmulatedRunner
from revati.models import write_model

Maker = Callable[..., Case]


def driver_case(make: Maker, driver: str, **more: Any) -> Case:
    chat = {"arrival": {"kind": "closed", "concurrency": 3, "think_s": None}} | more
    return make(
        {
            "workload": {"driver": driver, "executable": "/bin/true", "classes": {"chat": chat}},
            "model": {"path": "some-tokenizer", "served_name": "fake"},
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


# Their names for our metrics: (statistic, factor to our unit) by name, and what of each distribution both print alike.
# GuideLLM's percentiles take the nearest rank, ours interpolate, so only its means are to be equal.
AIPERF = {
    "time_to_first_token": "ttft_ms",
    "inter_token_latency": "tpot_ms",
    "request_latency": "e2e_ms",
    "request_throughput": "throughput.requests_per_s",
    "output_token_throughput": "throughput.output_tokens_per_s",
    "request_count": "requests.ok",
}
GUIDELLM = {
    "time_to_first_token_ms": "ttft_ms",
    "inter_token_latency_ms": "tpot_ms",
    "requests_per_second": "throughput.requests_per_s",
    "output_tokens_per_second": "throughput.output_tokens_per_s",
}
STATISTICS = {"avg": "mean", "p50": "p50", "p90": "p90", "p99": "p99", "max": "max"}


def differences(result: dict[str, Any]) -> list[str]:
    """Where the client's own report and our metrics differ by more than rounding (1 us, or 1e-5 of it)."""
    ours, theirs = result["metrics"], result["driver_report"]
    pairs = []
    if theirs["driver"] == "aiperf":
        for name, metric in AIPERF.items():
            for statistic, our_statistic in STATISTICS.items():
                if f"{metric}.{our_statistic}" in ours:
                    pairs.append((f"{name}.{statistic}", theirs[name][statistic], ours[f"{metric}.{our_statistic}"]))
            if metric in ours:
                pairs.append((name, theirs[name]["avg"], ours[metric]))
        assert len(pairs) == 3 * 5 + 3
    else:
        for name, metric in GUIDELLM.items():
            pairs.append((name, theirs[name]["mean"], ours.get(metric, ours.get(f"{metric}.mean"))))
        pairs.append(("request_latency", theirs["request_latency"]["mean"] * 1e3, ours["e2e_ms.mean"]))
    return [
        f"{name}: {their} and {our}" for name, their, our in pairs if their != pytest.approx(our, rel=1e-5, abs=0.001)
    ]


def program(driver: str) -> str:
    """The client's command; scripts/test installs the clients and names them."""
    found = os.environ.get(f"REVATI_TEST_{driver.upper()}") or shutil.which(driver)
    if found is None:
        pytest.skip(f"{driver} is not installed; scripts/test without --no-vllm installs it")
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "llama-3.1-8b"
    write_model("llama-3.1-8b", folder)
    return folder


def their_case(make: Maker, driver: str, model: Path, concurrency: int) -> Case:
    case = driver_case(make, driver, arrival={"kind": "closed", "concurrency": concurrency, "think_s": None})
    case.data["workload"]["executable"] = program(driver)
    case.data["model"]["path"] = str(model)
    case.data["limits"] |= {"wall_s": 900, "ready_wall_s": 300}
    # A prompt's time must not depend on how a client's text splits into tokens.
    case.data["server"]["args"] = ["--prefill-us", "0"]
    return case


@pytest.mark.slow
@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("driver", ["aiperf", "guidellm"])
def test_the_clients_own_report_equals_ours(fake_case: Maker, model: Path, tmp_path: Path, driver: str) -> None:
    """The same requests by two definitions of each metric: the client's summary and ours of its export.

    On the host's clock the definitions differ: theirs go on to the end of the stream, which takes no virtual time.
    """
    case = their_case(fake_case, driver, model, 3)
    case.data["server"]["args"] = []
    result = run_case(case, tmp_path, EmulatedRunner())
    assert (result["metrics"]["requests.ok"], result["metrics"]["tokens.output"]) == (20, 20 * 12)
    assert result["metrics"]["e2e_ms.max"] > result["metrics"]["e2e_ms.mean"] + 0.1, "all alike: nothing is compared"
    assert differences(result) == []


@pytest.mark.slow
@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("driver", ["aiperf", "guidellm"])
def test_the_client_sees_in_virtual_time_what_ours_sees(
    fake_case: Maker, model: Path, tmp_path: Path, driver: str
) -> None:
    """The same load sent by the client and by our own: no host time is left that could differ."""
    case = their_case(fake_case, driver, model, 1)
    theirs = run_case(case, tmp_path / "theirs", EmulatedRunner())
    assert differences(theirs) == []
    case.data["workload"] |= {"driver": "revati", "executable": None}
    ours = run_case(case, tmp_path / "ours", EmulatedRunner())["metrics"]
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        for statistic in ("mean", "p50", "p99"):
            name = f"{metric}.{statistic}"
            assert theirs["metrics"][name] == pytest.approx(ours[name], abs=0.001), name
    assert ours["tpot_ms.mean"] == pytest.approx(4, abs=0.001), "the server's step is 4 ms"


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.usefixtures("emulation")
def test_aiperf_measures_an_emulated_vllm(model: Path, tmp_path: Path) -> None:
    vllm = shutil.which("vllm")
    if vllm is None:
        pytest.skip("vLLM is not installed")
    arguments = ["--load-format", "dummy", "--enforce-eager", "--max-model-len", "8192"]
    arguments += ["--hf-overrides", '{"num_hidden_layers": 4}']
    chat = {"arrival": {"kind": "closed", "concurrency": 4}, "input_tokens": 300, "output_tokens": 16}
    data = {
        "revati_case": 1,
        "name": "aiperf",
        "framework": {"name": "vllm", "executable": vllm},
        "model": {"path": str(model)},
        "server": {"args": arguments},
        "workload": {"driver": "aiperf", "executable": program("aiperf"), "requests": 20, "classes": {"chat": chat}},
        "limits": {"ready_wall_s": 600, "wall_s": 900},
    }
    result = run_case(case_from_data(data, tmp_path), tmp_path / "run", EmulatedRunner())
    metrics = result["metrics"]
    assert (metrics["requests.ok"], metrics["tokens.output"]) == (20, 20 * 16)
    assert differences(result) == []
    assert metrics["step.count"] >= 5 * 16, "the steps of the engine are in the result, whoever sent the load"
    assert metrics["step.gpu_ms.mean"] < metrics["tpot_ms.mean"], "a token takes its step's GPU time and the host's"
