"""Whole steps as sums of operators, beside published measurements: what scripts/step-table prints.

A step here is the GPU time of one forward pass with all kernels back to back in a graph; what a server measures also
holds its host's gaps, so a predicted step should be a little shorter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from revati_predictors.facts import ModelFacts
from revati_predictors.gpus import find_gpu
from revati_predictors.operators import (
    Attention,
    Collective,
    Gemm,
    GraphLaunch,
    Moe,
    Operator,
    Stream,
    family_of,
)
from revati_predictors.predictor import SOURCE_NAMES, Predictor, RooflinePredictor

__all__ = ["MODELS", "main", "step_operators", "step_us"]

MODELS = {
    "llama-3.1-8b": ModelFacts(
        layers=32, hidden=4096, intermediate=14336, vocab=128256, heads_q=32, heads_kv=8, head_dim=128
    ),
    "llama-3.1-70b": ModelFacts(
        layers=80, hidden=8192, intermediate=28672, vocab=128256, heads_q=64, heads_kv=8, head_dim=128
    ),
    "qwen3-30b-a3b": ModelFacts(
        layers=48,
        hidden=2048,
        intermediate=6144,
        vocab=151936,
        heads_q=32,
        heads_kv=4,
        head_dim=128,
        experts=128,
        topk=8,
        moe_intermediate=768,
    ),
}
_METADATA_KERNELS = 15


def step_operators(facts: ModelFacts, seqs: Sequence[tuple[int, int]]) -> list[tuple[Operator, int]]:
    """(operator, how often) of one forward pass over the sequences ((q_len, kv_len), ...) on one rank."""
    tokens = sum(q for q, _ in seqs)
    hq, hkv = facts.local_heads()
    dtype = facts.quantization or facts.dtype
    norm = Stream("norm", 8.0 * tokens * facts.hidden, tokens, facts.hidden)
    layer: list[Operator] = [norm, norm]
    layer += [Gemm(tokens, n, k, dtype, 1, dtype.startswith("fp8")) for n, k in facts.dense_gemms()]
    layer.append(Stream("rope", 4.0 * tokens * (hq + hkv) * facts.head_dim, tokens))
    layer.append(Attention(tuple(seqs), hq, hkv, facts.head_dim, "bfloat16", facts.kv_cache_dtype(), facts.window))
    if facts.experts:
        layer.append(Gemm(tokens, facts.experts, facts.hidden))
        layer.append(
            Moe(
                tokens,
                facts.hidden,
                facts.expert_width(),
                facts.topk,
                facts.experts,
                facts.tp // facts.ep,
                facts.ep,
                dtype,
                facts.moe_distribution,
            )
        )
    else:
        layer.append(Stream("activation", 6.0 * tokens * facts.intermediate / facts.tp, tokens))
    if facts.tp > 1:
        nbytes = 2 * tokens * facts.hidden
        layer += [Collective("all_reduce", nbytes, facts.tp, 1, "custom" if nbytes <= 8 << 20 else "nccl")] * 2
    counts: dict[Operator, int] = {}
    for op in layer:
        counts[op] = counts.get(op, 0) + facts.layers
    once: list[Operator] = [
        Gemm(len(seqs), facts.vocab // facts.tp, facts.hidden),
        Stream("embedding", 4.0 * tokens * facts.hidden, tokens),
        Stream("sampling", 8.0 * len(seqs) * facts.vocab, len(seqs)),
        GraphLaunch(0),
        *[Stream("metadata", 4096.0)] * _METADATA_KERNELS,
    ]
    for op in once:
        counts[op] = counts.get(op, 0) + 1
    return list(counts.items())


def step_us(
    predictor: Predictor, facts: ModelFacts, seqs: Sequence[tuple[int, int]]
) -> tuple[float, dict[str, float], dict[str, float]]:
    """(microseconds, by family, by source) of one step."""
    operators = step_operators(facts, seqs)
    families: dict[str, float] = {}
    sources: dict[str, float] = {}
    for (op, count), estimate in zip(operators, predictor.predict([op for op, _ in operators])):
        us = estimate.us * count
        families[family_of(op).lower()] = families.get(family_of(op).lower(), 0.0) + us
        sources[SOURCE_NAMES[estimate.source]] = sources.get(SOURCE_NAMES[estimate.source], 0.0) + us
    return sum(families.values()), families, sources


def _line(
    label: str, us: float, roofline: float, families: dict[str, float], sources: dict[str, float], measured: str
) -> str:
    top = sorted(families.items(), key=lambda item: -item[1])[:3]
    whole = sum(families.values())
    shares = ", ".join(f"{name} {100 * t / whole:.0f} %" for name, t in top)
    covered = 100 * (sources.get("measured", 0.0) + sources.get("interpolated", 0.0)) / whole
    return f"{label:<58} {us / 1e3:>9.2f} {measured:>20} {roofline / 1e3:>9.2f} {covered:>7.0f} %  {shares}"


_HEAD = f"{'step':<58} {'ms':>9} {'measured':>20} {'roofline':>9} {'covered':>9}  most of it"
_STEPS = (
    ("llama-3.1-8b", "h100-sxm", 1, ""),
    ("llama-3.1-70b", "h100-sxm", 4, ""),
    ("qwen3-30b-a3b", "h100-sxm", 1, ""),
)
_SERVED = (
    ("ix_llama70b_fp8_h100_vllm_tp4", "llama-3.1-70b", "h100-sxm", "fp8"),
    ("ix_llama70b_fp8_h200_vllm_tp1", "llama-3.1-70b", "h200-sxm", "fp8"),
    ("aic_llama31_8b_fp8_h200_vllm_tp2", "llama-3.1-8b", "h200-sxm", "fp8"),
)
# Prompts repeat and the measured TTFT falls with load: almost all prefills hit the prefix cache.
_PROMPTS_CACHED = frozenset({"aic_llama31_8b_fp8_h200_vllm_tp2"})


def _served_lines(directory: Path) -> list[str]:
    """TPOT and TTFT of published runs beside the same from steps: decode + others' prefills, and one prefill."""
    from revati_predictors import load_predictor

    lines = []
    for case, model, gpu, quantization in _SERVED:
        path = directory / f"{case}.json"
        if not path.is_file():
            continue
        data = json.loads(path.read_text())
        predictor = load_predictor(gpu, "auto", "vllm", "")
        roofline = RooflinePredictor(find_gpu(gpu))
        for point in data["points"]:
            isl, osl, c, tp = (int(point[k]) for k in ("isl", "osl", "concurrency", "tp"))
            if point["ttft_ms"] > 5000:
                continue  # queueing for KV memory: not a step
            nominal = 0.9 if case.startswith("ix_") else 1.0  # lengths are uniform in 0.8 .. 1.0 of the nominal ones
            facts = replace(
                MODELS[model],
                tp=tp,
                quantization=quantization,
                kv_dtype="fp8" if case.startswith("ix_") else "bfloat16",
            )
            kv = int(nominal * (isl + osl / 2))
            prompt = int(nominal * isl)
            us, families, sources = step_us(predictor, facts, [(1, kv)] * c)
            prefill, *_ = step_us(predictor, facts, [(prompt, prompt)])
            floor, *_ = step_us(roofline, facts, [(1, kv)] * c)
            # Between two tokens of a request run the prefills of those that take the places of finished ones.
            others = 0.0 if case in _PROMPTS_CACHED else (c - 1) / (nominal * osl)
            tpot = us + others * prefill
            plain, *_ = step_us(roofline, facts, [(prompt, prompt)])
            label = f"{model} {quantization} tp{tp} {gpu} C={c} {isl}/{osl}"
            lines.append(
                _line(
                    f"{label} TPOT",
                    tpot,
                    floor + others * plain,
                    families,
                    sources,
                    f"{point['tpot_ms']:.2f} ({100 * (tpot / 1e3 / point['tpot_ms'] - 1):+.0f} %)",
                )
            )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """What scripts/step-table runs."""
    parser = argparse.ArgumentParser(prog="step-table", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--serving", type=Path, help="directory with published serving measurements (<case>.json)")
    arguments = parser.parse_args(argv)
    from revati_predictors import load_predictor

    print(_HEAD)
    for model, gpu, tp, quantization in _STEPS:
        facts = replace(MODELS[model], tp=tp, quantization=quantization)
        predictor, roofline = load_predictor(gpu), RooflinePredictor(find_gpu(gpu))
        for label, seqs in (
            ("decode, 1 x 1,000 keys", [(1, 1000)]),
            ("decode, 8 x 1,000 keys", [(1, 1000)] * 8),
            ("decode, 64 x 1,000 keys", [(1, 1000)] * 64),
            ("prefill, 1 x 512", [(512, 512)]),
            ("prefill, 1 x 2,000", [(2000, 2000)]),
            ("prefill 2,000 + 32 decodes", [(2000, 2000), *[(1, 1000)] * 32]),
        ):
            us, families, sources = step_us(predictor, facts, seqs)
            floor, *_ = step_us(roofline, facts, seqs)
            print(_line(f"{model} tp{tp} {gpu} {label}", us, floor, families, sources, "-"))
    # AccelMark interactive run (Apache-2.0): one request at a time, vLLM 0.20.1, Llama-3-8B bf16, mean 570 tokens.
    facts, predictor = MODELS["llama-3.1-8b"], load_predictor("a100-sxm")
    us, families, sources = step_us(predictor, facts, [(1, 570)])
    floor, *_ = step_us(RooflinePredictor(find_gpu("a100-sxm")), facts, [(1, 570)])
    print(
        _line(
            "llama-3-8b tp1 a100-sxm decode, 1 x 570 keys",
            us,
            floor,
            families,
            sources,
            f"10.77 ({100 * (us / 1e3 / 10.77 - 1):+.0f} %)",
        )
    )
    if arguments.serving is not None:
        for line in _served_lines(arguments.serving):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
