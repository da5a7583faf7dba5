"""Replays a table of requests through vLLM's own asynchronous engine, inside this process: no HTTP, no tokenising.

Published per-request runs are made like this, with latencies taken inside the engine; a client behind HTTP would add
its own milliseconds to one side of the comparison only. Lengths are exact (`min_tokens` = `max_tokens`), sampling is
greedy, and equal block numbers of the table are equal prompt blocks.

Reads its work as JSON from the file named on the command line; writes for every run a table of requests in the
columns of the published ones: index, arrival_us, input_tokens, output_tokens, queue_ms, ttft_ms, e2e_ms, tpot_ms, all
counted from the moment the engine queued the request.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revati.calibration.measure.offline import engine_arguments

__all__ = ["COLUMNS", "main", "prompt_tokens", "table_row"]

COLUMNS = ("index", "arrival_us", "input_tokens", "output_tokens", "queue_ms", "ttft_ms", "e2e_ms", "tpot_ms")
_BLOCK = 16


def prompt_tokens(number: int, row: dict[str, str], vocabulary: int) -> list[int]:
    """The prompt of one request: its shared blocks by their numbers, the rest its own. Token ids avoid both ends of
    the vocabulary, where special tokens are.
    """
    length = int(row["input_tokens"])
    blocks = [f"shared-{b}" for b in row.get("prefix_block_hashes16", "").split()][: length // _BLOCK]
    blocks += [f"own-{number}-{i}" for i in range(-(-length // _BLOCK) - len(blocks))]
    tokens = []
    for block in blocks:
        draw = random.Random(block)
        tokens += [draw.randrange(300, vocabulary - 1000) for _ in range(_BLOCK)]
    return tokens[:length]


def table_row(number: int, row: dict[str, str], metrics: Any) -> dict[str, object]:
    """One request of the result from vLLM's RequestStateStats (seconds of the engine's clock)."""
    outputs = int(row["output_tokens"])
    queued, first, last = (float(getattr(metrics, n)) for n in ("queued_ts", "first_token_ts", "last_token_ts"))
    return {
        "index": number,
        "arrival_us": row["arrival_us"],
        "input_tokens": row["input_tokens"],
        "output_tokens": outputs,
        "queue_ms": round((float(metrics.scheduled_ts) - queued) * 1e3, 4),
        "ttft_ms": round((first - queued) * 1e3, 4),
        "e2e_ms": round((last - queued) * 1e3, 4),
        "tpot_ms": round((last - first) * 1e3 / (outputs - 1), 5) if outputs > 1 else 0.0,
    }


def _read(table: Path) -> list[dict[str, str]]:
    with gzip.open(table, "rt") if table.suffix == ".gz" else table.open() as file:
        return sorted(csv.DictReader(file), key=lambda r: float(r["arrival_us"]))


async def _replay(engine: Any, rows: Sequence[dict[str, str]], vocabulary: int) -> list[dict[str, object]]:
    """All requests of one run, each sent at its arrival; the first leaves at once."""
    from vllm import SamplingParams

    prompts = [prompt_tokens(i, row, vocabulary) for i, row in enumerate(rows)]
    loop = asyncio.get_running_loop()
    begin = loop.time()
    earliest = float(rows[0]["arrival_us"])

    async def one(number: int, row: dict[str, str]) -> dict[str, object]:
        await asyncio.sleep(max(0.0, begin + (float(row["arrival_us"]) - earliest) / 1e6 - loop.time()))
        outputs = int(row["output_tokens"])
        sampling = SamplingParams(min_tokens=outputs, max_tokens=outputs, ignore_eos=True, temperature=0.0)
        metrics = None
        async for output in engine.generate({"prompt_token_ids": prompts[number]}, sampling, f"replay-{number}"):
            metrics = output.metrics or metrics
        return table_row(number, row, metrics)

    return list(await asyncio.gather(*(one(i, row) for i, row in enumerate(rows))))


async def _drive(spec: dict[str, Any]) -> None:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    # As the published runs: per-request statistics on, the rest as vLLM has it.
    arguments = AsyncEngineArgs(
        model=spec["model"], load_format="dummy", disable_log_stats=False, **engine_arguments(spec["server"])
    )
    engine = AsyncLLM.from_engine_args(arguments)
    vocabulary = json.loads((Path(spec["model"]) / "config.json").read_text())["vocab_size"]
    try:
        for run in spec["runs"]:
            rows = _read(Path(run["trace"]))
            await engine.reset_prefix_cache()
            result = await _replay(engine, rows, vocabulary)
            path = Path(spec["folder"]) / f"{run['file']}.csv"
            with path.with_suffix(".part").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(result)
            path.with_suffix(".part").rename(path)
            print(f"replay: {run['file']}: {len(result)} requests", flush=True)
    finally:
        engine.shutdown()


def main() -> int:
    """argv: SPEC.json (model, server, folder, runs)."""
    asyncio.run(_drive(json.loads(Path(sys.argv[1]).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
