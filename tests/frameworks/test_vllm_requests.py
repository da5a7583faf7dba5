"""The real vLLM, offline: every kind of request ends as asked, with valid tokens, in both runners and modes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks.emulated import emulate, need, need_v2_runner
from tests.frameworks.models import short_llama

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

LENGTHS = {
    "greedy": 8, "greedy_again": 8, "alone": 8, "random": 8, "seeded": 8, "two_samples": 4, "penalties": 6, "min_p": 6,
    "top_k": 6, "top_p": 6, "top_k_top_p_seed": 6, "allowed": 6, "bad_words": 6, "chunked": 4, "stop_ids": 6,
    "logprobs": 3, "prompt_logprobs": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("vllm")
    return short_llama(tmp_path_factory.mktemp("model"))


def ids(result: dict[str, Any], name: str) -> list[list[int]]:
    return [completion["ids"] for request in result[name] for completion in request]


@pytest.mark.parametrize(
    ("mode", "runner", "observer"),
    [
        ("eager", "1", "1"),
        ("eager", "1", "0"),
        ("eager", "0", "1"),
        ("default", "1", "1"),
        pytest.param("default", "0", "1", marks=pytest.mark.extended),
    ],
)
def test_requests(model: Path, tmp_path: Path, mode: str, runner: str, observer: str) -> None:
    if runner == "1":
        need_v2_runner()
    oracle = tmp_path / "oracle"
    oracle.write_text("seed 3\nlength 12\neos 128009\n")
    result = emulate("vllm_requests.py", str(model), mode, limit_s=1500, VLLM_ENABLE_V1_MULTIPROCESSING="0",
                     VLLM_USE_V2_MODEL_RUNNER=runner, REVATI_OBSERVER=observer, REVATI_ORACLE=str(oracle))  # fmt: skip
    for name, length in LENGTHS.items():
        for request in result[name]:
            for completion in request:
                assert len(completion["ids"]) == length, (name, completion)
                assert completion["finish"] == "length", (name, completion)
                assert all(256 <= token < 128000 for token in completion["ids"]), (name, completion)
    assert result["greedy"] == result["greedy_again"], "tokens are a function of the request"
    assert ids(result, "alone") == ids(result, "greedy")[1:2], "whoever else is in the batch"
    assert len({tuple(row) for row in ids(result, "greedy")}) == 3, "requests differ"
    first, second = (completion["ids"] for completion in result["two_samples"][0])
    assert first != second, "samples of one request differ"
    assert result["seeded"] != result["greedy"]
    assert all(token in (1005, 1006, 1007) for row in ids(result, "allowed") for token in row)
    assert not any(2000 <= token < 4000 for row in ids(result, "stop_ids") for token in row)
    assert len(ids(result, "stop_word")[0]) == 3 and result["stop_word"][0][0]["finish"] == "stop"
    assert result["logprobs_sane"] and result["logprobs_hold_token"] and result["prompt_logprobs_sane"]
    for text, request in zip(result["json_text"], result["json"]):
        assert request[0]["finish"] == "stop", request
        value = json.loads(text)
        assert value["kind"] in ("apple", "pear") and isinstance(value["count"], int)
    for name, length, finish in (("ends", 12, "stop"), ("ends_late", 21, "stop"), ("ignores_end", 16, "length")):
        completion = result[name][0][0]
        assert (len(completion["ids"]), completion["finish"]) == (length, finish), (name, completion)
