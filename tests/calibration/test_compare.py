from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from revati._errors import UsageError
from revati._hostprofile import load_host_profile, parse_host_profile
from revati.calibration.accuracy import page, summarise
from revati.calibration.compare import (
    compare_folders,
    compare_requests,
    compare_steps,
    load_requests,
    load_steps,
    percentile,
    short_kernel,
)
from revati.calibration.hostprofile import host_profile, usable_profile
from tests.calibration.helpers import bench_result, write_lines


def _write(path: Path, result: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path


def test_percentile_interpolates_between_ranks() -> None:
    assert percentile([4.0, 1.0, 2.0, 3.0], 50) == 2.5
    assert percentile([1.0, 2.0], 99) == pytest.approx(1.99)
    assert math.isnan(percentile([], 50))


def test_metrics_of_a_bench_result(tmp_path: Path) -> None:
    run = load_requests(_write(tmp_path / "low-1.json", bench_result([0.02, 0.04], 0.005, 11, 2.0)))
    assert run.ttft_ms == [20, 40]
    assert run.e2e_ms == pytest.approx([70, 90])
    assert run.tpot_ms == pytest.approx([5, 5])
    assert len(run.itl_ms) == 20
    assert run.throughput == 11


def test_errors_are_signed_and_stand_beside_the_real_systems_spread(tmp_path: Path) -> None:
    real = [
        load_requests(_write(tmp_path / f"r{i}.json", bench_result([t] * 4, 0.01, 5, 1.0)))
        for i, t in enumerate((0.1, 0.12))
    ]
    emulated = load_requests(_write(tmp_path / "e.json", bench_result([0.0990] * 4, 0.011, 5, 1.0)))
    metrics = compare_requests(real, emulated)["metrics"]
    assert metrics["ttft_ms"]["p50"]["error_pct"] == pytest.approx(-10)
    assert metrics["ttft_ms"]["p50"]["spread_pct"] == pytest.approx(100 * 0.02 / 0.11, abs=0.001)
    assert metrics["tpot_ms"]["mean"]["error_pct"] == pytest.approx(10)
    assert metrics["throughput"]["error_pct"] == 0
    assert metrics["ttft_ms"]["ks_distance"] == 1.0
    assert compare_requests(real[:1], real[0])["metrics"]["ttft_ms"]["ks_distance"] == 0


def test_a_table_of_requests_published_by_others(tmp_path: Path) -> None:
    path = tmp_path / "x.requests.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(
            "index,arrival_us,input_tokens,output_tokens,queue_ms,ttft_ms,e2e_ms,tpot_ms\n0,1000000,10,5,0,20,60,10\n"
            "1,2000000,10,5,0,30,1000,242.5\n"
        )
    run = load_requests(path)
    assert run.ttft_ms == [20, 30] and run.output_tokens == 10
    assert run.duration_s == pytest.approx(2.0)


@pytest.mark.parametrize("content", ["{}", "not json", '{"ttfts": [1]}'])
def test_another_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"x\.json"):
        load_requests(path)


def _engine(i: int, prefill: list[list[int]], decode: list[int], at_ns: int) -> dict[str, Any]:
    return {
        "i": i,
        "t": [at_ns, at_ns, at_ns, at_ns + 1],
        "tokens": sum(q for q, _ in prefill) + len(decode),
        "prefill": prefill,
        "decode": decode,
        "waiting": 0,
        "running": 1,
        "free_blocks": 1,
    }


def _trace(folder: Path, steps: list[tuple[list[list[int]], list[int]]], us: float, warm_up: int = 0) -> None:
    rows = [_engine(i, p, d, 1000 + i) for i, (p, d) in enumerate(steps)]
    write_lines(folder / "engine-7.jsonl", rows)
    worker = [{"i": j, "tokens": 8192, "host_ns": [1, 1], "gpu_us": 1.0} for j in range(warm_up)]
    worker += [{"i": 0, "tokens": r["tokens"], "host_ns": [1, 1], "gpu_us": us * (1 + r["tokens"])} for r in rows]
    write_lines(folder / "worker-7.jsonl", worker)


STEPS: list[tuple[list[list[int]], list[int]]] = [([[100, 100]], []), *(([], [101 + i, 50 + i]) for i in range(9))]


def test_gpu_times_find_their_steps_behind_the_warm_up(tmp_path: Path) -> None:
    _trace(tmp_path, STEPS, 2.0, warm_up=3)
    steps = load_steps(tmp_path)
    assert steps is not None
    assert steps.gpu_us == [202.0] + [6.0] * 9


def test_steps_compare_in_place_and_aligned(tmp_path: Path) -> None:
    _trace(tmp_path / "a", STEPS, 2.0)
    _trace(tmp_path / "b", [([[3, 3]], []), *STEPS], 3.0)  # one step more at the start shifts all others
    a, b = load_steps(tmp_path / "a"), load_steps(tmp_path / "b")
    assert a and b
    same = compare_steps(a, a)
    assert same["same_in_place_pct"] == same["same_aligned_pct"] == 100
    shifted = compare_steps(a, b)
    assert shifted["same_in_place_pct"] == 0
    assert shifted["same_aligned_pct"] == 100
    assert shifted["gpu_us_by_kind"]["decode of 2"]["error_pct"] == 50


def test_a_whole_case_is_compared_run_by_run_and_the_page_says_what_was_missed(tmp_path: Path) -> None:
    for side, factor in (("real", 1.0), ("emulated", 1.2)):
        for repeat in (1, 2):
            _write(tmp_path / side / f"low-{repeat}.json", bench_result([0.02 * factor] * 5, 0.005, 9, 4.0))
        _write(tmp_path / side / "startup.json", {"kv_tokens": 1000 * factor, "ready_s": 60})
        write_lines(tmp_path / side / "offline.jsonl", [{"batch": 1, "input": 8, "output": 8, "seconds": 2.0 * factor}])
        _trace(tmp_path / side / "steps", STEPS, 2.0)
    report = compare_folders(tmp_path / "real", tmp_path / "emulated")
    assert report["startup"]["kv_tokens"]["error_pct"] == pytest.approx(20)
    assert report["offline"]["1 x 8 -> 8"]["error_pct"] == pytest.approx(20)
    found = summarise(report)
    assert found["kv_blocks"] == pytest.approx(20)
    assert found["p99"] == pytest.approx(20)
    result = {
        "case": "c",
        "group": "calibrated",
        "date": "2026-01-01",
        "gpu": "h200-sxm",
        "pack": "p",
        "real": {},
        "emulated": {},
        "report": report,
    }
    text = page([result], {"calibrated": {"c": {"kv_blocks": 0.5, "p99": 25}}})
    assert "| c | calibrated | kv blocks | <= 0.5 | 20.00 | **no** |" in text
    assert "| c | calibrated | p99 | <= 25 | 20.00 | yes |" in text
    with pytest.raises(UsageError, match="no run in common"):
        compare_folders(tmp_path / "real", tmp_path / "nowhere")


def test_a_host_profile_takes_the_clock_out_and_medians_by_kind_of_step(tmp_path: Path) -> None:
    calls = [
        {"call": "clock (cost of measuring)", "ns_p50": 20},
        {"call": "cudaLaunchKernel 8 arguments", "ns_p50": 2120},
        {"call": "cudaMalloc and cudaFree 2097152", "ns_p50": 100020},
    ]
    session = {"kind": "session", "session": "s", "cpu": "X", "cpus": 16, "gpu": {"name": "NVIDIA H200"}}
    write_lines(
        tmp_path / "facts.jsonl", [session, {"kind": "row", "key": "api_costs", "session": "s", "calls": calls}]
    )
    rows = [{**_engine(i, [], [100, 100], 0), "t": [0, 100 + i, 500, 900 + i]} for i in range(3)]
    write_lines(tmp_path / "case" / "steps" / "engine-1.jsonl", rows)
    write_lines(tmp_path / "case" / "steps" / "worker-1.jsonl", [{"tokens": 2, "host_ns": [7, 9]}])
    profile = host_profile(tmp_path)
    assert profile["calls"] == {"launch_ns": 2100, "malloc_ns": 50000}
    assert profile["steps"] == {"decode of 2": {"execute_ns": 7, "sample_ns": 9, "schedule_ns": 101, "update_ns": 401}}
    assert profile["machine"]["cpu"] == "X"
    base = load_host_profile("default")
    usable = parse_host_profile(usable_profile(profile, base), "here")
    assert usable.costs_ns["launch"] == base.costs_ns["launch"] + 2100 and usable.costs_ns["malloc"] == 50000
    assert usable.costs_ns["step"] == base.costs_ns["step"] and usable.taken_on.startswith("X, NVIDIA H200")
    with pytest.raises(UsageError, match="neither"):
        host_profile(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("full", "short"),
    [
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>, A<char*, 1ul> >(int)",
            "vectorized_elementwise_kernel",
        ),
        ("nvjet_tst_64x8_64x16_4x1_v_bz_TNT", "nvjet_tst_64x8_64x16_4x1_v_bz_TNT"),
        ("_gumbel_sample_kernel", "_gumbel_sample_kernel"),
        (
            "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, (vllm::Fp8)0>(x const*)",
            "reshape_and_cache_flash_kernel",
        ),
    ],
)
def test_kernel_names_lose_their_templates(full: str, short: str) -> None:
    assert short_kernel(full) == short
