"""Speculative decoding of the real vLLM: as many draft tokens are accepted as the oracle was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks.emulated import emulate, need
from tests.frameworks.models import short_llama

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

# Acceptance of each phase of programs/vllm_speculation.py, whose requests are numbered through.
REQUESTS, DRAFTS, EOS = 6, 4, 128009
ACCEPTANCE = [0, 0.5, 1, 0.5, 0.5, 1, 1, 0.8]
NONE, HALF, ALL, HALF_AGAIN, RANDOM, ENDING, LOGPROBS, GRAMMAR = range(len(ACCEPTANCE))


def test_rejection_samplers_ask_the_oracle(tmp_path: Path) -> None:
    need("vllm")
    oracle = tmp_path / "oracle"
    oracle.write_text("seed 3\naccept all 1\naccept none 0\n")
    got = emulate("vllm_drafts.py", REVATI_ORACLE=str(oracle))
    assert got["indexed"] == [15, 10, 14, 13] and got["indexed_twice"] == [10, 13]
    taken, rejected = got["greedy"]
    assert taken[:3] == [101, 102, 103] and 0 <= taken[3] < 32000
    assert rejected[1:] == [-1] * 3 and 0 <= rejected[0] < 32000 and rejected[0] not in (201, 202, 203)
    assert got["random"] == got["again"] == got["greedy"]
    # Tokens of the next step: one behind the four of the first request, one behind the single one of the second.
    assert got["next"][0][:3] == [101, 102, 103] and got["next"][0][3] != taken[3]
    assert got["next"][1][0] != rejected[0] and got["next"][1][1:] == [-1] * 3
    assert got["next"] == got["next_told"], "a length that the framework guessed, and the true one"
    assert [row[:2] for row in got["synthetic"]] == [[101, 102], [201, 202]], "rates of vLLM's own come first"
    assert [row[3] for row in got["synthetic"]] == [-1, -1]
    if "v2" in got:
        accepted, resampled = got["v2"]
        assert len(accepted) == DRAFTS and accepted[3] == taken[3], "the bonus token is the oracle's"
        assert resampled == rejected[:1]


def speculate(tmp_path: Path, methods: str) -> dict[str, Any]:
    need("vllm")
    target, draft = short_llama(tmp_path / "target"), short_llama(tmp_path / "draft", layers=1)
    lines = ["seed 3", "range 1000 1010", f"eos {EOS}"]
    for number in range(REQUESTS * len(ACCEPTANCE)):
        phase, request = divmod(number, REQUESTS)
        lines.append(f"accept {number} {ACCEPTANCE[phase]}")
        if phase == ENDING:
            lines.append(f"length {number} {9 + request}")
    oracle = tmp_path / "oracle"
    oracle.write_text("\n".join(lines))
    return emulate("vllm_speculation.py", str(target), str(draft), methods, limit_s=1200,
                   VLLM_ENABLE_V1_MULTIPROCESSING="0", REVATI_ORACLE=str(oracle))  # fmt: skip


def check(phases: list[dict[str, Any]]) -> None:
    for number, phase in enumerate(phases[:GRAMMAR]):
        for request, (ids, finish) in enumerate(zip(phase["ids"], phase["finish"])):
            length = 9 + request if number == ENDING else 6 if number == LOGPROBS else 40
            assert (len(ids), finish) == (length, "stop" if number == ENDING else "length"), (number, ids)
            ends = [EOS] if number == ENDING else []
            assert ids[length - len(ends) :] == ends
            assert all(0 <= token < 128000 for token in ids[: length - len(ends)])
    none, half, everything = phases[NONE], phases[HALF], phases[ALL]
    assert none["num_draft_tokens"] > 100 and none["num_accepted_tokens"] == 0
    assert everything["num_draft_tokens"] > 100
    assert everything["num_accepted_tokens"] == everything["num_draft_tokens"]
    assert half == phases[HALF_AGAIN], "the same requests, the same decisions"
    for phase in (half, phases[RANDOM]):
        first, second, *_ = phase["num_accepted_tokens_per_pos"]
        assert phase["num_drafts"] > 80
        assert first / phase["num_drafts"] == pytest.approx(0.5, abs=0.2), "3.5 standard deviations of 80 drafts"
        assert second / first == pytest.approx(0.5, abs=0.3)
    assert phases[LOGPROBS]["logprobs"]
    assert phases[GRAMMAR]["finish"] == ["stop"] * REQUESTS
    for text in phases[GRAMMAR]["text"]:
        assert json.loads(text)["kind"] in ("apple", "pear"), text


def test_prompt_lookup_and_eagle(tmp_path: Path) -> None:
    """The first runs in vLLM's V1 runner and drafts on the host, the second in the V2 runner with a draft model."""
    got = speculate(tmp_path, "ngram,eagle")
    for phases in got.values():
        check(phases)
    # Drafts of a model are made up: what is accepted is what a run without speculation answers.
    eagle = got["eagle"]
    assert eagle[NONE]["ids"] == eagle[HALF]["ids"] == eagle[ALL]["ids"] != eagle[RANDOM]["ids"]
    assert eagle[ALL]["num_drafts"] < eagle[HALF]["num_drafts"] < eagle[NONE]["num_drafts"]


@pytest.mark.extended
def test_draft_model(tmp_path: Path) -> None:
    check(speculate(tmp_path, "draft_model")["draft_model"])
