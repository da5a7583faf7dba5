"""Durations of GPU operators: roofline, learned packs, and the service that the virtual device asks.

Public surface: `find_gpu`, `load_predictor` (packs where installed, else the roofline), `RooflinePredictor`,
`PredictorService`, the operators, and `Estimate`.
"""

from __future__ import annotations

from revati_predictors.facts import ROUTINGS, ModelFacts
from revati_predictors.gpus import GPUS, Gpu, UnknownGpuError, find_gpu
from revati_predictors.operators import (
    Attention,
    Collective,
    Copy,
    Gemm,
    GraphLaunch,
    Mla,
    Moe,
    Operator,
    Quantise,
    Stream,
)
from revati_predictors.predictor import Estimate, Predictor, RooflinePredictor
from revati_predictors.service import PredictorService

__all__ = [
    "GPUS",
    "ROUTINGS",
    "Attention",
    "Collective",
    "Copy",
    "Estimate",
    "Gemm",
    "Gpu",
    "GraphLaunch",
    "Mla",
    "ModelFacts",
    "Moe",
    "Operator",
    "Predictor",
    "PredictorService",
    "Quantise",
    "RooflinePredictor",
    "Stream",
    "UnknownGpuError",
    "find_gpu",
    "load_predictor",
]


def load_predictor(gpu: str, kind: str = "auto", framework: str = "vllm", version: str = "") -> Predictor:
    """A predictor for a GPU key. kind: 'auto' = packs where installed, 'roofline' = physics only.

    Raises UnknownGpuError for an unknown key, PackError for a broken pack, ValueError for an unknown kind.
    """
    if kind == "roofline":
        return RooflinePredictor(find_gpu(gpu))
    if kind != "auto":
        raise ValueError(f"unknown predictor kind '{kind}'; known: auto, roofline")
    from revati_predictors.learned_predictor import LearnedPredictor

    return LearnedPredictor(find_gpu(gpu), framework, version)
