"""Cases from file to result against a real server, with and without emulation, and everything that can go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from revati import RevatiError, RunError
from revati.experiments.bench import run_case
from revati.experiments.case import Case
from revati.experiments.drivers.records import read_records
from revati.experiments.results import RESULT_SCHEMA, read_result
from revati.experiments.runner import EmulatedRunner, NativeRunner

Maker = Callable[..., Case]


def test_a_native_run_gives_a_whole_result(fake_case: Maker, tmp_path: Path) -> None:
    result = run_case(fake_case(), tmp_path / "out", NativeRunner())
    jsonschema.validate(result, RESULT_SCHEMA)
    assert read_result(tmp_path / "out") == json.loads(json.dumps(result))
    assert result["complete"]
    assert result["metrics"]["requests.ok"] == 20
    assert result["metrics"]["tokens.output"] == 20 * 12
    # One prompt of 128 tokens takes 4 + 128 * 0.05 ms in the server; nothing can be faster.
    assert result["metrics"]["ttft_ms.mean"] > 10.3
    assert result["metrics"]["tpot_ms.mean"] > 3.9
    for row in result["requests"]:
        assert row["planned_ns"] <= row["sent_ns"] < row["token_ns"][0] <= row["token_ns"][-1] <= row["end_ns"]
        assert sum(row["token_counts"]) == row["output_tokens"] == 12
    assert result["identity"]["clock"] == "native"


@pytest.mark.usefixtures("emulation")
def test_emulated_runs_are_identical_and_exact(fake_case: Maker, tmp_path: Path) -> None:
    case = fake_case({"workload": {"classes": {"chat": {"arrival": {"kind": "constant", "rate_per_s": 4}}}}})
    one = run_case(case, tmp_path / "one", EmulatedRunner())
    two = run_case(case, tmp_path / "two", EmulatedRunner())
    assert one["requests"] == two["requests"]
    assert one["metrics"] == two["metrics"]
    # 250 ms apart, alone in the server: 4 + 6.4 ms of prefill, as asyncio there rounds it to milliseconds.
    first = [(row["token_ns"][0] - row["sent_ns"]) / 1e6 for row in one["requests"]]
    assert max(first) - min(first) < 1e-3
    assert first[0] == pytest.approx(11.0, abs=0.6)
    assert [row["sent_ns"] // 1000 for row in one["requests"]] == [250_000 * i for i in range(20)]
    assert one["statistics"]["virtual_ns"] > 4.75e9
    assert one["outcome"]["wall_s"] < 240


@pytest.mark.usefixtures("emulation")
def test_waits_of_agents_pass_in_virtual_time(fake_case: Maker, tmp_path: Path) -> None:
    session = {"calls": 4, "wait_s": 600, "follow_up_tokens": 32}
    case = fake_case({"workload": {"requests": 3, "scrape_s": 0, "classes": {"chat": {"session": session}}}})
    result = run_case(case, tmp_path / "out", EmulatedRunner())
    assert result["metrics"]["requests.ok"] == 12
    assert result["metrics"]["duration_s"] > 1800
    assert result["outcome"]["wall_s"] < 240
    for row in result["requests"]:
        assert row["input_tokens"] == 128 + row["call"] * (12 + 32)
        # The whole history is in the cache, down to blocks of 16 tokens: the answers came back as they were sent.
        if row["call"]:
            assert row["cached_tokens"] >= 128 + (row["call"] - 1) * 44 + 12 - 16
        assert not row["synthetic_history"]


def test_closed_loop_keeps_its_concurrency(fake_case: Maker, tmp_path: Path) -> None:
    arrival = {"kind": "closed", "concurrency": 3, "think_s": 0.02}
    result = run_case(
        fake_case({"workload": {"classes": {"chat": {"arrival": arrival}}}}), tmp_path / "out", NativeRunner()
    )
    marks = sorted(
        [(row["sent_ns"], 1) for row in result["requests"]] + [(row["end_ns"], -1) for row in result["requests"]]
    )
    flight = most = 0
    for _, change in marks:
        flight += change
        most = max(most, flight)
    assert most == 3
    assert result["metrics"]["requests.ok"] == 20


def test_failing_requests_are_counted_and_noted(fake_case: Maker, tmp_path: Path) -> None:
    result = run_case(fake_case({"server": {"args": ["--fail-every", 5]}}), tmp_path / "out", NativeRunner())
    assert result["metrics"]["requests.failed"] == 4
    assert result["metrics"]["requests.ok"] + result["metrics"]["requests.failed"] == result["metrics"]["requests.sent"]
    assert any("4 requests failed" in note and "HTTP 500" in note for note in result["notes"])


def test_a_server_that_never_becomes_ready(fake_case: Maker, tmp_path: Path) -> None:
    case = fake_case({"server": {"args": ["--never-ready"]}, "limits": {"ready_wall_s": 3}})
    started = time.monotonic()
    with pytest.raises(RunError, match=r"did not answer .*/health within 3 s of real time \(limits.ready_wall_s\)"):
        run_case(case, tmp_path / "out", NativeRunner())
    assert time.monotonic() - started < 60


def test_a_server_that_ends_at_once_shows_its_last_lines(fake_case: Maker, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(?s)ended with code 3 before it was ready.*fake server: no such model"):
        run_case(fake_case({"server": {"args": ["--exit-at-once"]}}), tmp_path / "out", NativeRunner())


def test_a_server_that_is_not_there(fake_case: Maker, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot start the server: no-such-server"):
        run_case(fake_case({"server": {"command": ["no-such-server"]}}), tmp_path / "out", NativeRunner())


def test_an_answer_that_hangs_is_bounded_by_the_request_limit(fake_case: Maker, tmp_path: Path) -> None:
    case = fake_case(
        {"server": {"args": ["--hang-after", 4]}, "limits": {"request_virtual_s": 1}, "workload": {"requests": 3}}
    )
    with pytest.raises(RunError, match="no request finished"):
        run_case(case, tmp_path / "out", NativeRunner())
    records = list(read_records(tmp_path / "out" / "requests.jsonl"))
    assert [record.error for record in records] == ["no answer within 1 s of virtual time"] * 3
    assert all(record.output_tokens == 4 for record in records)


def test_a_load_that_hangs_is_ended_and_what_finished_is_kept(fake_case: Maker, tmp_path: Path) -> None:
    classes = {
        "chat": {"requests": 5},
        "long": {"arrival": {"kind": "at_once"}, "requests": 1, "input_tokens": 10, "output_tokens": 900},
    }
    case = fake_case(
        {
            "workload": {"scrape_s": 0, "classes": classes},
            "server": {"args": ["--hang-after", 600]},
            "limits": {"stall_wall_s": 10},
        }
    )
    result = run_case(case, tmp_path / "out", NativeRunner())
    assert not result["complete"]
    assert result["outcome"]["reason"] == "limit"
    assert "limits.stall_wall_s" in result["outcome"]["message"]
    assert result["metrics"]["requests.ok"] == 5
    assert any(note.startswith("partial result") for note in result["notes"])


def test_the_virtual_limit_stops_the_load(fake_case: Maker, tmp_path: Path) -> None:
    case = fake_case({"limits": {"virtual_s": 0.5}})
    result = run_case(case, tmp_path / "out", NativeRunner())
    assert not result["complete"]
    assert "limits.virtual_s" in result["outcome"]["message"]
    assert 0 < result["metrics"]["requests.ok"] < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_valid_partial_result(
    case_file: Callable[..., Path], tmp_path: Path, start: Callable[..., subprocess.Popen[str]], number: int
) -> None:
    path = case_file({"workload": {"requests": None, "duration_s": 300}})
    out = tmp_path / "out"
    process = start("bench", str(path), "--native", "-o", str(out))
    limit = time.monotonic() + 180
    while not ((out / "requests.jsonl").exists() and (out / "requests.jsonl").stat().st_size > 2000):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait(40) == 130
    result = read_result(out)
    assert not result["complete"]
    assert result["outcome"]["reason"] == "interrupted"
    assert result["metrics"]["requests.ok"] >= 3
    pid = next(
        event["pid"] for event in map(json.loads, (out / "events.jsonl").read_text().splitlines()) if "pid" in event
    )
    assert not Path(f"/proc/{pid}").exists(), "the server was left behind"


def test_a_torn_last_line_is_left_out_and_damage_is_not(tmp_path: Path, fake_case: Maker) -> None:
    result_dir = tmp_path / "out"
    run_case(fake_case({"workload": {"requests": 3}}), result_dir, NativeRunner())
    path = result_dir / "requests.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(list(read_records(path))) == 2
    path.write_text("nonsense\n")
    with pytest.raises(RevatiError, match=r"requests\.jsonl:1: not a request record"):
        list(read_records(path))


def test_the_result_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"revati_result": 99}))
    with pytest.raises(RevatiError, match="result version 99, this Revati reads 1"):
        read_result(path)


@pytest.mark.usefixtures("emulation")
def test_slower_operators_need_a_known_family(fake_case: Maker, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="unknown operator family 'atention'; did you mean attention"):
        run_case(fake_case({"predictor": {"scale": {"atention": 1.05}}}), tmp_path / "out", EmulatedRunner())


def test_the_wrong_framework_version_is_refused(tmp_path: Path, fake_case: Maker) -> None:
    data: dict[str, Any] = fake_case().data
    data["framework"] |= {"name": "vllm", "version": "0.0.1", "python": "/usr/bin/python3"}
    with pytest.raises(RevatiError, match=r"wants vllm 0\.0\.1; the environment has"):
        run_case(Case(data, tmp_path), tmp_path / "out", NativeRunner())
