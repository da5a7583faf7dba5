"""Matrix products: tiles and waves."""

from __future__ import annotations

import numpy as np

from revati_predictors import roofline
from revati_predictors.families.base import Columns, Family, Floats, code, number, per_dtype
from revati_predictors.gpus import Gpu

__all__ = ["FAMILY_VARIANTS", "waves"]


def _gemm_us(gpu: Gpu, columns: Columns) -> Floats:
    m, n, k = (number(columns, c) for c in "mnk")
    return per_dtype(
        columns, lambda d, s: np.asarray(roofline.gemm_us(gpu, d, m[s], n[s], k[s], 1, d.startswith("fp8"))), len(m)
    )


_WAVE_TILES = ((64, 64), (64, 128), (64, 256), (128, 128), (128, 256), (256, 128), (192, 192))

_WAVE_M, _WAVE_N = (np.array([t[i] for t in _WAVE_TILES], float)[:, None] for i in (0, 1))

_FILL_TILES = np.array([64, 128, 192, 256], float)[:, None]


def waves(gpu: Gpu, m: Floats, n: Floats, bound: Floats | None = None) -> dict[str, Floats]:
    """Tiles, waves and what the last wave loses. `bound`: arithmetic over memory time.

    While weights are read at the speed of the memory, a wave that is not full costs little. Shown the full loss, models
    expect of a layer that was not measured (28672 columns on 108 SMs: two waves, one nearly empty) what products that
    compute lose there.
    """
    waves = np.ceil(m / _WAVE_M) * np.ceil(n / _WAVE_N) / gpu.sms
    loss = np.where(waves < 1, waves, np.ceil(waves) / waves)
    if bound is not None:
        loss = np.where(loss > 1, 1.0 + (loss - 1.0) * np.minimum(bound, 1.0) ** 2, loss)
    size = np.log2(waves)
    out: dict[str, Floats] = {}
    for i, (tile_m, tile_n) in enumerate(_WAVE_TILES):
        out[f"wave_loss_{tile_m}x{tile_n}"] = loss[i]
        if tile_n == 128:
            out[f"waves_{tile_m}"] = size[i]
    fill = m / _FILL_TILES / np.ceil(m / _FILL_TILES)
    for i, tile in enumerate(_FILL_TILES[:, 0]):
        out[f"tile_fill_{tile:g}"] = fill[i]
    return out


def _gemm_physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
    m, n, k = (number(columns, c) for c in "mnk")
    terms = np.empty((2, len(m)))
    peak = np.empty(len(m))
    dtypes = columns["dtype"]
    for dtype in dict.fromkeys(dtypes.tolist()):
        s = dtypes == dtype
        terms[0, s], terms[1, s] = roofline.gemm_terms(gpu, str(dtype), m[s], n[s], k[s])
        peak[s] = roofline.peak_flops(gpu, str(dtype))
    return {
        "dtype": code(columns, "dtype"),
        "log_m": np.log2(m),
        "log_n": np.log2(n),
        "log_k": np.log2(k),
        "odd_m": m % 2,
        "log_compute": np.log(terms[0]),
        "log_intensity": np.log(terms[0] / terms[1]),
        "log_weights": np.log2(n * k),
        **waves(gpu, m, n, 2e6 * m * n * k / peak / terms[1]),
    }


FAMILY_VARIANTS: tuple[Family, ...] = (
    Family(
        "gemm",
        "gemm",
        ("dtype",),
        ("m", "n", "k"),
        _gemm_us,
        _gemm_physics,
        mask_axis=0,
        text=frozenset({"dtype"}),
        region=("n", "k"),
    ),
)
