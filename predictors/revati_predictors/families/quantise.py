"""Quantisation of activations."""

from __future__ import annotations

import numpy as np

from revati_predictors import roofline
from revati_predictors.families.base import Columns, Family, Floats, number, plain_physics
from revati_predictors.gpus import Gpu

__all__ = ["FAMILY_VARIANTS"]


def _quantise_us(gpu: Gpu, columns: Columns) -> Floats:
    return np.asarray(roofline.quantise_us(gpu, number(columns, "m"), number(columns, "k")))


FAMILY_VARIANTS: tuple[Family, ...] = (
    Family(
        "quantize",
        "quantize",
        ("framework", "version", "op", "kernel", "dtype"),
        ("m", "k"),
        _quantise_us,
        plain_physics("m", "k"),
        text=frozenset({"framework", "version", "op", "kernel", "dtype"}),
        soft=("kernel", "version", "framework"),
        shape_ignores=("framework", "version", "op", "kernel", "dtype"),
    ),
)
