"""Offline batches through vLLM's `LLM` class: all requests at once, tokens as prompts, end-to-end time and
per-request times.

Reads its work as JSON from the file named on the command line and writes one line per batch to OUT.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["engine_arguments", "main"]


def engine_arguments(arguments: list[str]) -> dict[str, Any]:
    """`--max-model-len 16384` as keyword arguments of `LLM`; a flag without a value is True, `--no-x` is x=False."""
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        name = rest.pop(0).removeprefix("--").replace("-", "_")
        if rest and not rest[0].startswith("--"):
            text = rest.pop(0)
            found[name] = int(text) if text.lstrip("-").isdigit() else float(text) if _is_float(text) else text
        else:
            found[name.removeprefix("no_")] = not name.startswith("no_")
    return found


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def main() -> int:
    """argv: SPEC.json (model, server, batches, repeats, out, seed)."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    from vllm import LLM, SamplingParams

    llm = LLM(model=spec["model"], load_format="dummy", disable_log_stats=True, **engine_arguments(spec["server"]))
    vocab = json.loads((Path(spec["model"]) / "config.json").read_text())["vocab_size"]
    with Path(spec["out"]).open("a", encoding="utf-8") as file:
        for batch in spec["batches"]:
            for repeat in range(spec["repeats"]):
                generator = random.Random(f"{spec['seed']}-{batch}-{repeat}")
                top = vocab - 1000  # special tokens are at the end
                prompts = [
                    {"prompt_token_ids": [generator.randrange(300, top) for _ in range(batch["input"])]}
                    for _ in range(batch["batch"])
                ]
                sampling = SamplingParams(max_tokens=batch["output"], ignore_eos=True)
                start_ns = time.monotonic_ns()
                outputs = llm.generate(prompts, sampling, use_tqdm=False)
                end_ns = time.monotonic_ns()
                row = {
                    **batch,
                    "repeat": repeat,
                    "monotonic_ns": [start_ns, end_ns],
                    "seconds": (end_ns - start_ns) / 1e9,
                    "tokens": sum(len(o.outputs[0].token_ids) for o in outputs),
                }
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(f"offline: batch {batch['batch']}: {row['seconds']:.4f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
