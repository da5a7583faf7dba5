"""Decode steps of vLLM in one process, for scripts/bench: says when each batch begins and ends in virtual seconds.

revati run ... -- python bench_in_process.py MODEL BATCH [BATCH ...]
"""

from __future__ import annotations

import os
import sys
import time

STEPS = 400

if __name__ == "__main__":
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    llm = LLM(model=sys.argv[1], load_format="dummy", max_model_len=2048, disable_log_stats=True)
    for batch in map(int, sys.argv[2:]):
        prompts = [{"prompt_token_ids": [1000 + n] * 16} for n in range(batch)]
        for steps in (STEPS // 10, STEPS):  # the first time warms up
            print("begin", batch, flush=True)
            began_s = time.monotonic()
            choices = SamplingParams(max_tokens=steps, ignore_eos=True, detokenize=False)
            llm.generate(prompts, choices, use_tqdm=False)
            print("end", batch, time.monotonic() - began_s, flush=True)
