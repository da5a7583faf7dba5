"""Workloads: repeatable, of the asked rate, and streamed."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revati import UsageError
from revati.experiments.case import Case
from revati.experiments.workloads import PromptMaker, Session, Workload

Maker = Callable[..., Case]


def sessions(case: Case, count: int | None = None) -> list[Session]:
    count = case.workload["requests"] if count is None else count
    return list(itertools.islice(Workload(case).open_sessions(), count))


def with_arrival(make: Maker, arrival: dict[str, Any], **more: Any) -> Case:
    return make({"workload": {"requests": None, "duration_s": 200, "classes": {"chat": {"arrival": arrival, **more}}}})


RATES = [
    ({"kind": "poisson", "rate_per_s": 10}, 2000),
    ({"kind": "gamma", "rate_per_s": 10, "burstiness": 0.5}, 2000),
    ({"kind": "gamma", "rate_per_s": 10, "burstiness": 4}, 2000),
    ({"kind": "constant", "rate_per_s": 10}, 2000),
    ({"kind": "ramp", "from_per_s": 5, "to_per_s": 15, "over_s": 200}, 2000),
    ({"kind": "spikes", "base_per_s": 5, "spike_per_s": 55, "every_s": 10, "width_s": 1}, 2000),
]


@pytest.mark.parametrize(("arrival", "expected"), RATES)
def test_the_number_of_arrivals_is_that_of_the_rate(fake_case: Maker, arrival: dict[str, Any], expected: int) -> None:
    found = sessions(with_arrival(fake_case, arrival))
    assert found == sessions(with_arrival(fake_case, arrival)), "the same seed gave another workload"
    # Five standard deviations of a count with the largest variance here (burstiness 0.5 doubles Poisson's).
    assert abs(len(found) - expected) < 5 * (2 * expected) ** 0.5
    times = [session.at_ns for session in found]
    assert times == sorted(times)
    assert times[-1] < 200e9


def test_burstiness_is_the_shape_of_the_gaps(fake_case: Maker) -> None:
    def variation(burstiness: float) -> float:
        arrival = {"kind": "gamma", "rate_per_s": 10, "burstiness": burstiness}
        times = [session.at_ns for session in sessions(with_arrival(fake_case, arrival))]
        gaps = [b - a for a, b in itertools.pairwise(times)]
        mean = sum(gaps) / len(gaps)
        return (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean**2

    assert variation(0.25) == pytest.approx(4, rel=0.25)
    assert variation(4) == pytest.approx(0.25, rel=0.25)


def test_spikes_are_where_they_should_be(fake_case: Maker) -> None:
    arrival = {"kind": "spikes", "base_per_s": 1, "spike_per_s": 100, "every_s": 10, "width_s": 1}
    inside = [session.at_ns % 10e9 >= 9e9 for session in sessions(with_arrival(fake_case, arrival))]
    assert sum(inside) / len(inside) == pytest.approx(100 / 109, abs=0.03)


def test_lengths_of_one_purpose_do_not_move_another(fake_case: Maker) -> None:
    plain = sessions(
        fake_case({"workload": {"classes": {"chat": {"input_tokens": {"kind": "uniform", "low": 1, "high": 99}}}}})
    )
    other = sessions(
        fake_case(
            {
                "workload": {
                    "classes": {
                        "chat": {
                            "input_tokens": {"kind": "uniform", "low": 1, "high": 99},
                            "output_tokens": {"kind": "lognormal", "median": 40, "sigma": 0.5},
                        }
                    }
                }
            }
        )
    )
    assert [s.at_ns for s in plain] == [s.at_ns for s in other]
    assert [s.calls[0].new_tokens for s in plain] == [s.calls[0].new_tokens for s in other]
    assert {s.calls[0].new_tokens for s in plain} != {plain[0].calls[0].new_tokens}


def test_spreads_keep_their_limits_and_medians(fake_case: Maker) -> None:
    spread = {"kind": "lognormal", "median": 500, "sigma": 1.0, "low": 50, "high": 3000}
    case = fake_case({"workload": {"requests": 2000, "classes": {"chat": {"input_tokens": spread}}}})
    lengths = sorted(session.calls[0].new_tokens for session in sessions(case, 2000))
    assert lengths[0] >= 50
    assert lengths[-1] <= 3000
    assert lengths[1000] == pytest.approx(500, rel=0.1)


def test_equal_keys_are_equal_prefixes_and_others_are_not() -> None:
    maker = PromptMaker(7, 20_000)
    long, short = maker.tokens((("b/1", 512),)), maker.tokens((("b/1", 100),))
    assert long[:100] == short
    assert maker.tokens((("b/2", 512),)) != long
    assert PromptMaker(8, 20_000).tokens((("b/1", 512),)) != long
    assert all(1000 <= token < 20_000 for token in long)


def test_sessions_grow_their_history_and_shared_prefixes_are_shared(fake_case: Maker) -> None:
    section = {
        "prefix": {"tokens": 64, "groups": 2},
        "session": {"calls": 3, "wait_s": {"kind": "exponential", "mean": 2}, "follow_up_tokens": 20},
    }
    found = sessions(fake_case({"workload": {"classes": {"chat": section}}}))
    assert all(len(session.calls) == 3 for session in found)
    prefixes = {session.calls[0].segments[0] for session in found}
    assert prefixes == {("p/chat/0", 64), ("p/chat/1", 64)}
    assert all(session.calls[0].new_tokens == 128 for session in found)
    waits = [call.wait_ns for session in found for call in session.calls[1:]]
    assert sum(waits) / len(waits) == pytest.approx(2e9, rel=0.6)
    assert not any(call.fresh for session in found for call in session.calls[1:])


def trace_case(make: Maker, path: Path, form: str, **more: Any) -> Case:
    data = {
        "trace": {"file": str(path), "format": form, **more},
        "arrival": None,
        "input_tokens": None,
        "output_tokens": None,
    }
    return make({"workload": {"requests": None, "classes": {"chat": data}}})


def test_mooncake_blocks_become_shared_segments(fake_case: Maker, tmp_path: Path) -> None:
    rows = [
        {"timestamp": 1000, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]},
        {"timestamp": 3000, "input_length": 1030, "output_length": 7, "hash_ids": [1, 2, 4]},
    ]
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows))
    first, second = sessions(trace_case(fake_case, path, "mooncake", time_scale=0.5))
    assert (first.at_ns, second.at_ns) == (0, 1_000_000_000)
    assert first.calls[0].segments == (("b/1", 512), ("b/2", 512), ("b/3", 76))
    assert second.calls[0].segments == (("b/1", 512), ("b/2", 512), ("b/4", 6))
    assert second.calls[0].output_tokens == 7


def test_azure_burstgpt_agentic_and_vidur_rows(fake_case: Maker, tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )
    found = sessions(trace_case(fake_case, azure, "azure"))
    assert [session.at_ns for session in found] == [0, 4_314_579_000]
    burst = tmp_path / "burst.csv"
    burst.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,c\n6.5,GPT-4,10,0,10,c\n9,x,9,3,12,c\n"
    )
    found = sessions(trace_case(fake_case, burst, "burstgpt"))
    assert [(session.at_ns, session.calls[0].new_tokens) for session in found] == [(0, 472), (4_000_000_000, 9)]
    agent = tmp_path / "agent.csv"
    agent.write_text(
        "benchmark,session,call_index,timestamp_utc_end,model,prompt_tokens,completion_tokens\n"
        "b,s1,0,2026-04-23T17:38:30.000000+00:00,m,100,10\nb,s1,1,2026-04-23T17:38:33.000000+00:00,m,150,20\n"
        "b,s2,0,2026-04-23T17:38:20.000000+00:00,m,90,10\n"
    )
    one, two = sessions(trace_case(fake_case, agent, "agentic"))
    assert (one.at_ns, len(one.calls), two.at_ns, len(two.calls)) == (0, 1, 10_000_000_000, 2)
    # The second prompt is the first prompt, its answer and 40 tokens more; 20 answer tokens are taken off the gap.
    assert two.calls[1].new_tokens == 40
    assert two.calls[1].wait_ns == 3_000_000_000 - 20 * 15_000_000
    assert not two.calls[1].fresh


BAD_TRACES = [
    ("csv", "", "no rows"),
    ("csv", "arrival_s,input_tokens,output_tokens\n", "no rows"),
    ("csv", "arrival_s,tokens\n1,2\n", "column 'input_tokens' is missing"),
    ("csv", "arrival_s,input_tokens,output_tokens\n0,5,x\n", ":2: output_tokens is 'x', not a whole number"),
    ("csv", "arrival_s,input_tokens,output_tokens\n0,0,5\n", ":2: input_tokens is 0; it must be at least 1"),
    ("csv", "arrival_s,input_tokens,output_tokens\n-1,5,5\n", ":2: arrival_s is negative"),
    ("csv", "arrival_s,input_tokens,output_tokens\n3,5,5\n1,5,5\n", ":3: rows must be ordered by time"),
    ("csv", "arrival_s,input_tokens,output_tokens\n3\n", ":2: 1 columns"),
    ("csv", b"arrival_s,input_tokens,output_tokens\n1,\xff,5\n", ":2: byte 0xff is not UTF-8"),
    ("mooncake", "{]\n", ":1: not JSON"),
    ("mooncake", '{"timestamp": 1}\n', "'input_length' is missing"),
    ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", "'yesterday' is not a time"),
]


@pytest.mark.parametrize(("form", "text", "words"), BAD_TRACES)
def test_a_bad_trace_is_refused_with_its_line(
    fake_case: Maker, tmp_path: Path, form: str, text: str | bytes, words: str
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        sessions(trace_case(fake_case, path, form))
    assert words in str(caught.value)


def test_a_missing_and_a_torn_trace(fake_case: Maker, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the trace"):
        sessions(trace_case(fake_case, tmp_path / "none.csv", "csv"))
    whole = gzip.compress(b"arrival_s,input_tokens,output_tokens\n" + b"0,1,1\n" * 9999)
    torn = tmp_path / "torn.csv.gz"
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="ends too early"):
        sessions(trace_case(fake_case, torn, "csv"))


def test_a_million_rows_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    with path.open("w") as stream:
        stream.write("arrival_s,input_tokens,output_tokens\n")
        stream.writelines(f"{i / 100},{100 + i % 50},{10 + i % 7}\n" for i in range(1_000_000))
    code = f"""
import resource
from pathlib import Path
from revati.experiments.case import case_from_data
from revati.experiments.workloads import Workload
case = case_from_data({{"revati_case": 1, "name": "big", "framework": {{"name": "command"}},
    "server": {{"command": ["x"]}},
    "workload": {{"classes": {{"a": {{"trace": {{"file": "{path}", "format": "csv"}}}}}}}}}}, Path("."))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sum(1 for _ in Workload(case).open_sessions()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows, grown_kib = map(int, done.stdout.split())
    assert rows == 1_000_000
    assert grown_kib < 20 * 1024


def test_values_beyond_the_exact_limit_are_binned_within_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from revati.experiments import stats

    monkeypatch.setattr(stats, "_EXACT_MAX", 1000)
    values = stats.Values()
    for i in range(1, 100_001):
        values.add(i / 10)
    assert not values.exact
    for percent, value in zip(stats.PERCENTILES, values.percentiles()):
        assert value == pytest.approx(percent * 100, rel=1e-3)
    assert values.count == 100_000
