"""Offline engines with speculative decoding. Arguments: target model, draft model, methods. Prints one JSON line.

Requests are numbered as the engine numbers them, so that the oracle's file can name them: see PHASES in the test.
"""

import gc
import json
import sys
from typing import Any

from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams

MODEL, DRAFT, METHODS = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
REQUESTS, DRAFTS = 6, 4
METRICS = ("num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_accepted_tokens_per_pos")
# Sampling of each group of REQUESTS requests, in order.
GREEDY = SamplingParams(temperature=0, max_tokens=40)
RANDOM = SamplingParams(temperature=0.8, max_tokens=40, seed=5)
ENDING = SamplingParams(temperature=0, max_tokens=64)
LOGPROBS = SamplingParams(temperature=0, max_tokens=6, logprobs=2)
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["apple", "pear"]}, "count": {"type": "integer"}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
GRAMMAR = SamplingParams(temperature=0, max_tokens=120, structured_outputs=StructuredOutputsParams(json=SCHEMA))
PHASES = [GREEDY, GREEDY, GREEDY, GREEDY, RANDOM, ENDING, LOGPROBS, GRAMMAR]


def config(method: str) -> dict[str, Any]:
    common: dict[str, Any] = {"method": method, "num_speculative_tokens": DRAFTS}
    if method == "ngram":
        return common | {"prompt_lookup_max": 3, "prompt_lookup_min": 1}
    return common | {"model": DRAFT}


def prompt(seed: int) -> dict[str, list[int]]:
    return {"prompt_token_ids": [2000 + (seed * 7919 + i * 31) % 20000 for i in range(20 + seed)]}


def counts(llm: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in llm.get_metrics():
        name = metric.name.removeprefix("vllm:spec_decode_")
        if name in METRICS:
            found[name] = list(metric.values) if hasattr(metric, "values") else metric.value
    return found


def less(after: Any, before: Any) -> Any:
    return [a - b for a, b in zip(after, before)] if isinstance(after, list) else after - before


result: dict[str, Any] = {}
for method in METHODS:
    llm = LLM(MODEL, load_format="dummy", max_model_len=2048, gpu_memory_utilization=0.3, max_num_batched_tokens=512,
              max_num_seqs=16, enforce_eager=True, disable_log_stats=False,
              speculative_config=config(method))  # fmt: skip
    rows = result[method] = []
    for params in PHASES:
        before = counts(llm)
        outputs = llm.generate([prompt(seed) for seed in range(REQUESTS)], params, use_tqdm=False)
        after = counts(llm)
        rows.append({
            "ids": [list(o.outputs[0].token_ids) for o in outputs],
            "text": [o.outputs[0].text for o in outputs],
            "finish": [o.outputs[0].finish_reason for o in outputs],
            "logprobs": all(token in row for o in outputs if o.outputs[0].logprobs
                            for token, row in zip(o.outputs[0].token_ids, o.outputs[0].logprobs)),
            **{name: less(after[name], before[name]) for name in METRICS},
        })  # fmt: skip
    del llm
    gc.collect()
print(json.dumps(result))
