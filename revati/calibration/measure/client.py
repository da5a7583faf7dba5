"""Drives a running server with vLLM's own `bench serve`, several runs in one process: its imports take longer than
a short run.

Reads a list of runs as JSON from the file named on the command line; writes what `vllm bench serve --save-detailed`
writes, without the generated texts.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["bench_arguments", "main", "replay_file"]


def bench_arguments(run: dict[str, Any], model: str, port: int, folder: Path) -> list[str]:
    """The `vllm bench serve` command line of one run."""
    if run.get("trace"):
        arguments = ["--dataset-name=timed_trace", f"--dataset-path={run['trace']}"]
    else:
        spread = json.dumps({"input": run["spread"], "output": run["spread"]})
        arguments = ["--dataset-name=random", f"--request-rate={run['rate']}", f"--random-range-ratio={spread}"]
        arguments += [f"--random-input-len={run['input']}", f"--random-output-len={run['output']}"]
    return [
        "--backend",
        "vllm",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--endpoint",
        "/v1/completions",
        "--model",
        model,
        *arguments,
        f"--num-prompts={run['prompts']}",
        "--seed",
        str(run["seed"]),
        "--ignore-eos",
        "--disable-tqdm",
        "--save-result",
        "--save-detailed",
        "--percentile-metrics",
        "ttft,tpot,itl,e2el",
        "--metric-percentiles",
        "50,90,95,99",
        "--result-dir",
        str(folder),
        "--result-filename",
        f"{run['file']}.json",
    ]


def replay_file(table: Path, out: Path) -> tuple[str, int]:
    """Writes a table of requests as the trace that `--dataset-name timed_trace` replays; returns its path and length.

    Blocks of 16 prompt tokens keep their identity, so that prefixes shared in the original run are shared again.
    """
    with gzip.open(table, "rt") if table.suffix == ".gz" else table.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda r: float(r["arrival_us"]))
    first = float(rows[0]["arrival_us"])
    with out.open("w", encoding="utf-8") as trace:
        for number, row in enumerate(rows):
            length = int(row["input_tokens"])
            blocks = [int(b) for b in row.get("prefix_block_hashes16", "").split()][: length // 16]
            own = iter(range(1_000_000_000 + number * 100_000, 1_000_000_000 + (number + 1) * 100_000))
            blocks += [next(own) for _ in range(-(-length // 16) - len(blocks))]
            line = {"timestamp": (float(row["arrival_us"]) - first) / 1e6, "input_length": length}
            trace.write(json.dumps({**line, "output_length": int(row["output_tokens"]), "hash_ids": blocks}) + "\n")
    return str(out), len(rows)


def main() -> int:
    """argv: SPEC.json (model, port, folder, runs); prints one line per run."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    folder, base = Path(spec["folder"]), f"http://127.0.0.1:{spec['port']}"
    for run in spec["runs"]:
        if run.get("trace", "").endswith((".csv", ".csv.gz")):
            run["trace"], run["prompts"] = replay_file(Path(run["trace"]), folder / f"{run['file']}.trace.jsonl")
        parser = FlexibleArgumentParser()
        serve.add_cli_args(parser)
        arguments: argparse.Namespace = parser.parse_args(bench_arguments(run, spec["model"], spec["port"], folder))
        # A repeat with the same seed sends the same prompts: without this it would measure the prefix cache.
        _post(f"{base}/reset_prefix_cache")
        if run.get("profile"):
            _post(f"{base}/start_profile")
        start_ns = time.monotonic_ns()
        serve.main(arguments)
        end_ns = time.monotonic_ns()
        if run.get("profile"):
            _post(f"{base}/stop_profile")
        path = folder / f"{run['file']}.json"
        result = json.loads(path.read_text())
        result.pop("generated_texts", None)
        result["errors"] = sum(1 for e in result.get("errors", []) if e)
        result["revati"] = {"run": run, "monotonic_ns": [start_ns, end_ns]}
        path.write_text(json.dumps(result, separators=(",", ":")))
        print(
            f"client: {run['file']}: {result.get('completed')} requests, "
            f"median TTFT {result.get('median_ttft_ms', 0):.2f} ms, "
            f"TPOT {result.get('median_tpot_ms', 0):.3f} ms",
            flush=True,
        )
    return 0


def _post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST", data=b""), timeout=120):
        pass


if __name__ == "__main__":
    sys.exit(main())
