"""Offline vLLM with graphs: prompts of unequal lengths. Argument: model directory. Prints one JSON line."""

import json
import sys

from vllm import LLM, SamplingParams

llm = LLM(
    sys.argv[1],
    load_format="dummy",
    max_model_len=2048,
    gpu_memory_utilization=0.5,
    max_num_batched_tokens=1024,
    cudagraph_capture_sizes=[1, 2, 4, 8],
)
prompts = [{"prompt_token_ids": [1000 + (s * 7919 + i * 31) % 20000 for i in range(20 * s + 5)]} for s in range(8)]
outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=24, ignore_eos=True), use_tqdm=False)
print(json.dumps({"tokens": sum(len(o.outputs[0].token_ids) for o in outputs)}))
