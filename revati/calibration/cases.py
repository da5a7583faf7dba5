"""Validation cases: what is run for real and, with the same code, under emulation (`validation/cases/*.yaml`).

    name: llama-3.1-8b-bf16
    model: llama-3.1-8b            # a name that `revati models` knows
    gpu: h200-sxm
    server: [--max-model-len, "16384"]
    serve:                         # vllm serve + vllm bench serve
      input: 1024                  # mean tokens; spread: lengths are uniform in mean * (1 -+ spread)
      output: 128
      spread: 0.5
      repeats: 2
      runs: [{name: low, rate: 4, prompts: 80}]      # or {name: all, trace: ../public/X.requests.csv.gz}
    offline:                       # LLM.generate on equal requests, all at once
      repeats: 2
      batches: [{batch: 8, input: 1024, output: 128}]

Strict: an unknown or missing key is an error that names the file and the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from revati._errors import UsageError

__all__ = ["Batch", "Case", "Run", "load_case"]


@dataclass(frozen=True)
class Run:
    """One run of the load generator: Poisson arrivals at `rate` requests per second, or those of a table of requests.

    `trace`: path of a table with arrival_us, input_tokens, output_tokens and, if known, prefix_block_hashes16.
    """

    name: str
    rate: float
    prompts: int
    input: int
    output: int
    spread: float
    seed: int = 0
    trace: str = ""


@dataclass(frozen=True)
class Batch:
    """`batch` equal requests given to `LLM.generate` at once."""

    batch: int
    input: int
    output: int

    @property
    def name(self) -> str:
        return f"b{self.batch}-{self.input}-{self.output}"


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    gpu: str
    server: tuple[str, ...]
    runs: tuple[Run, ...] = ()
    serve_repeats: int = 2
    batches: tuple[Batch, ...] = ()
    offline_repeats: int = 2
    note: str = ""
    path: Path = field(default_factory=Path)

    def scaled_down(self) -> Case:
        """The same case small enough to try the code: few prompts, short, no offline batch over 2."""
        runs = tuple(
            Run(r.name, r.rate, min(r.prompts, 4), min(r.input, 64), min(r.output, 8), r.spread, r.seed, r.trace)
            for r in self.runs
        )
        batches = tuple(Batch(min(b.batch, 2), min(b.input, 64), min(b.output, 8)) for b in self.batches[:2])
        return Case(self.name, self.model, self.gpu, self.server, runs, 1, batches, 1, self.note, self.path)


def _table(path: Path, where: str, value: Any, required: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {where} must be a table")
    for key in value:
        if key not in required | optional:
            raise UsageError(f"{path}: unknown key '{key}' in {where}; known: {', '.join(sorted(required | optional))}")
    for key in sorted(required):
        if key not in value:
            raise UsageError(f"{path}: {where} lacks '{key}'")
    return value


def load_case(path: Path) -> Case:
    """Reads a case file. Raises UsageError with the file and the key for anything that is not as described above."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror}") from None
    except yaml.YAMLError as problem:
        raise UsageError(f"{path}: not YAML: {str(problem).splitlines()[0]}") from None
    top = _table(path, "the case", content, {"name", "model", "gpu"}, {"server", "serve", "offline", "note"})
    runs: list[Run] = []
    batches: list[Batch] = []
    serve_repeats = offline_repeats = 2
    if "serve" in top:
        serve = _table(path, "serve", top["serve"], {"runs"}, {"repeats", "input", "output", "spread"})
        serve_repeats = int(serve.get("repeats", 2))
        for entry in serve["runs"]:
            if isinstance(entry, dict) and "trace" in entry:
                replay = _table(path, "serve.runs", entry, {"name", "trace"}, {"seed"})
                table = (path.parent / str(replay["trace"])).resolve()
                if not table.is_file():
                    raise UsageError(f"{path}: serve.runs: no such trace: {table}")
                runs.append(Run(str(replay["name"]), 0.0, 0, 0, 0, 0.0, int(replay.get("seed", 0)), str(table)))
                continue
            run = _table(path, "serve.runs", entry, {"name", "rate", "prompts"}, {"input", "output", "spread", "seed"})
            common: dict[str, Any] = {k: serve[k] for k in ("input", "output", "spread") if k in serve}
            needed = {"name", "rate", "prompts", "input", "output", "spread"}
            merged = _table(path, "serve.runs", {**common, **run}, needed, {"seed"})
            runs.append(
                Run(
                    str(merged["name"]),
                    float(merged["rate"]),
                    int(merged["prompts"]),
                    int(merged["input"]),
                    int(merged["output"]),
                    float(merged["spread"]),
                    int(merged.get("seed", 0)),
                )
            )
    if "offline" in top:
        offline = _table(path, "offline", top["offline"], {"batches"}, {"repeats"})
        offline_repeats = int(offline.get("repeats", 2))
        for entry in offline["batches"]:
            batch = _table(path, "offline.batches", entry, {"batch", "input", "output"}, set())
            batches.append(Batch(int(batch["batch"]), int(batch["input"]), int(batch["output"])))
    server = top.get("server", [])
    if not isinstance(server, list) or not all(isinstance(a, str) for a in server):
        raise UsageError(f"{path}: server must be a list of strings (quote the numbers)")
    return Case(
        str(top["name"]),
        str(top["model"]),
        str(top["gpu"]),
        tuple(server),
        tuple(runs),
        serve_repeats,
        tuple(batches),
        offline_repeats,
        str(top.get("note", "")),
        path,
    )
