"""Durations of GPU operators: roofline, learned packs, and the service that the virtual device asks.

Public surface: `find_gpu`, `load_predictor` (packs where installed, else the roofline), `RooflinePredictor`,
`PredictorService`, the operators, and `Estimate`.
"""

from __future__ import annotations

from revati_predictors.facts import ModelFacts
from revati_predictors.gpus import GPUS, Gpu, UnknownGpuError, find_gpu
from revati_predictors.operators import (
    Attention, Collective, Copy, Gemm, GraphLaunch, Mla, Moe, Operator, Quantise, Stream,
)
from revati_predictors.predictor import Estimate, Predictor, RooflinePredictor
from revati_predictors.service import PredictorService

__all__ = [
    "GPUS", "Gpu", "UnknownGpuError", "find_gpu", "ModelFacts", "Operator", "Gemm", "Attention", "Mla", "Moe",
    "Quantise", "Stream", "Copy", "Collective", "GraphLaunch", "Estimate", "Predictor", "RooflinePredictor",
    "PredictorService", "load_predictor",
]


def load_predictor(gpu: str, kind: str = "roofline") -> Predictor:
    """A predictor for a GPU key. kind: 'roofline'. Raises UnknownGpuError."""
    if kind != "roofline":
        raise ValueError(f"unknown predictor kind '{kind}'; known: roofline")
    return RooflinePredictor(find_gpu(gpu))
