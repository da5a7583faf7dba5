"""One offline vLLM engine, many kinds of requests. Arguments: model directory, eager|default. Prints one JSON line."""

import json
import math
import sys
from typing import Any

from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams

MODEL, MODE = sys.argv[1:3]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["apple", "pear"]}, "count": {"type": "integer"}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}


def prompt(seed: int, tokens: int) -> dict[str, list[int]]:
    return {"prompt_token_ids": [1000 + (seed * 7919 + i * 31) % 20000 for i in range(tokens)]}


PROMPTS = [prompt(seed, 5 + seed) for seed in range(3)]
extra: dict[str, Any] = {"enforce_eager": True} if MODE == "eager" else {"cudagraph_capture_sizes": [1, 2, 4, 8]}
llm = LLM(MODEL, load_format="dummy", max_model_len=2048, gpu_memory_utilization=0.5, max_num_batched_tokens=1024,
          max_logprobs=20, **extra)  # fmt: skip
result: dict[str, Any] = {"vocab": llm.get_tokenizer().vocab_size}


def run(name: str, params: SamplingParams, prompts: Any = None) -> list[Any]:
    outputs = llm.generate(prompts or PROMPTS, params, use_tqdm=False)
    result[name] = [
        [{"ids": list(c.token_ids), "finish": c.finish_reason, "stop": c.stop_reason} for c in o.outputs]
        for o in outputs
    ]
    return list(outputs)


run("greedy", SamplingParams(temperature=0, max_tokens=8))
run("greedy_again", SamplingParams(temperature=0, max_tokens=8))
run("alone", SamplingParams(temperature=0, max_tokens=8), PROMPTS[1:2])
run("random", SamplingParams(temperature=0.8, max_tokens=8))
run("seeded", SamplingParams(temperature=0.8, max_tokens=8, seed=7))
run("two_samples", SamplingParams(temperature=0.8, max_tokens=4, n=2, seed=5))
run("penalties", SamplingParams(temperature=0.5, max_tokens=6, repetition_penalty=1.1, presence_penalty=0.5,
                                frequency_penalty=0.1))  # fmt: skip
run("min_p", SamplingParams(temperature=0.5, max_tokens=6, min_p=0.1))
run("top_k", SamplingParams(temperature=0.8, max_tokens=6, top_k=10))
run("top_p", SamplingParams(temperature=0.8, max_tokens=6, top_p=0.9))
run("top_k_top_p_seed", SamplingParams(temperature=0.8, max_tokens=6, top_k=10, top_p=0.9, seed=3),
    [prompt(seed, 3) for seed in range(10)])  # fmt: skip
run("allowed", SamplingParams(temperature=0, max_tokens=6, allowed_token_ids=[1005, 1006, 1007]))
run("bad_words", SamplingParams(temperature=0, max_tokens=6, bad_words=["a"]))
run("chunked", SamplingParams(temperature=0, max_tokens=4), [prompt(9, 1800), prompt(10, 1500)])
run("stop_ids", SamplingParams(temperature=0, max_tokens=6, stop_token_ids=list(range(2000, 4000))))
# The word of the third greedy token stops the request there.
word = llm.get_tokenizer().decode([result["greedy"][0][0]["ids"][2]]).strip()
run("stop_word", SamplingParams(temperature=0, max_tokens=8, stop=[word]), PROMPTS[:1])
outputs = run("logprobs", SamplingParams(temperature=0, max_tokens=3, logprobs=5))
result["logprobs_sane"] = all(
    len(row) >= 5 and all(math.isfinite(entry.logprob) and entry.logprob <= 0 for entry in row.values())
    for o in outputs for row in o.outputs[0].logprobs
)  # fmt: skip
result["logprobs_hold_token"] = all(
    token in row for o in outputs for token, row in zip(o.outputs[0].token_ids, o.outputs[0].logprobs)
)
scored = [prompt(20, 1500), PROMPTS[0]]
outputs = run("prompt_logprobs", SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=3), scored)
result["prompt_logprobs_sane"] = all(
    all(token in row and all(math.isfinite(entry.logprob) for entry in row.values())
        for token, row in list(zip(o.prompt_token_ids, o.prompt_logprobs))[1:]) for o in outputs
)  # fmt: skip
grammar = StructuredOutputsParams(json=SCHEMA)
outputs = run("json", SamplingParams(temperature=0, max_tokens=120, structured_outputs=grammar))
result["json_text"] = [o.outputs[0].text for o in outputs]
# The oracle's file says `length 12`: whatever may end by EOS has 12 tokens.
run("ends", SamplingParams(temperature=0, max_tokens=64), [prompt(30, 40)])
run("ends_late", SamplingParams(temperature=0, max_tokens=64, min_tokens=20), [prompt(30, 40)])
run("ignores_end", SamplingParams(temperature=0, max_tokens=16, ignore_eos=True), [prompt(30, 40)])
print(json.dumps(result))
