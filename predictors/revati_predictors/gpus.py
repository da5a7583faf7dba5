"""What each GPU can do at best: the numbers that the roofline divides by.

Peaks are dense (no sparsity) and per second; bandwidths are bytes per second in one direction. `origin` says where
the row comes from. The full device catalogue (names, attributes, NVML answers) belongs to the product; this table
only holds what a duration depends on, so that the predictors stand alone.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GPUS", "Gpu", "UnknownGpuError", "find_gpu", "normalise_gpu_key"]


class UnknownGpuError(ValueError):
    """The GPU key is not in the table."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. Flops and bytes are per second, sizes in bytes, the launch floor in microseconds."""

    key: str
    architecture: str
    sms: int
    clock_hz: float
    flops_bf16: float
    flops_fp8: float  # equals flops_bf16 where the card has no fp8 units
    flops_fp4: float  # equals flops_fp8 where the card has no fp4 units
    flops_f32: float
    hbm_bytes_s: float
    l2_bytes: float
    link_bytes_s: float  # GPU to GPU, one direction: NVLink where there is one, else PCIe
    pcie_bytes_s: float
    floor_us: float  # shortest time between two dependent small kernels of a stream or graph
    nearest: str  # the GPU with measured tables whose ratio model this one borrows; itself if it has its own
    origin: str


def _gpu(
    key: str,
    arch: str,
    sms: int,
    mhz: int,
    bf16: float,
    fp8: float,
    fp4: float,
    f32: float,
    hbm_gb: float,
    l2_mb: float,
    link_gb: float,
    pcie_gb: float,
    floor_us: float,
    nearest: str,
    origin: str,
) -> Gpu:
    return Gpu(
        key,
        arch,
        sms,
        mhz * 1e6,
        bf16 * 1e12,
        fp8 * 1e12,
        fp4 * 1e12,
        f32 * 1e12,
        hbm_gb * 1e9,
        l2_mb * 1e6,
        link_gb * 1e9,
        pcie_gb * 1e9,
        floor_us,
        nearest,
        origin,
    )


_ROWS = [
    #     key             arch         SMs  MHz  bf16    fp8     fp4     f32    HBM   L2  link PCIe floor nearest
    _gpu(
        "h100-sxm",
        "hopper",
        132,
        1830,
        989.4,
        1978.9,
        1978.9,
        66.9,
        3352,
        50,
        450,
        55,
        2.2,
        "h100-sxm",
        "NVIDIA H100 datasheet, SXM5 80 GB",
    ),
    _gpu(
        "h100-pcie",
        "hopper",
        114,
        1755,
        756.0,
        1513.0,
        1513.0,
        51.2,
        2039,
        50,
        55,
        55,
        2.2,
        "h100-sxm",
        "NVIDIA H100 datasheet, PCIe 80 GB",
    ),
    _gpu(
        "h100-nvl",
        "hopper",
        132,
        1785,
        835.0,
        1671.0,
        1671.0,
        60.0,
        3938,
        50,
        300,
        55,
        2.2,
        "h100-sxm",
        "NVIDIA H100 datasheet, NVL 94 GB",
    ),
    _gpu(
        "h200-sxm",
        "hopper",
        132,
        1830,
        989.4,
        1978.9,
        1978.9,
        66.9,
        4800,
        50,
        450,
        55,
        2.2,
        "h200-sxm",
        "NVIDIA H200 datasheet, SXM 141 GB",
    ),
    _gpu(
        "h20",
        "hopper",
        78,
        1830,
        148.0,
        296.0,
        296.0,
        44.0,
        4000,
        60,
        450,
        55,
        2.2,
        "h200-sxm",
        "public H20 specification, 96 GB",
    ),
    _gpu(
        "a100-sxm-40",
        "ampere",
        108,
        1410,
        312.0,
        312.0,
        312.0,
        19.5,
        1555,
        40,
        300,
        25,
        2.5,
        "a100-sxm",
        "NVIDIA A100 datasheet, SXM4 40 GB",
    ),
    _gpu(
        "a100-sxm",
        "ampere",
        108,
        1410,
        312.0,
        312.0,
        312.0,
        19.5,
        2039,
        40,
        300,
        25,
        2.5,
        "a100-sxm",
        "NVIDIA A100 datasheet, SXM4 80 GB",
    ),
    _gpu(
        "a10g",
        "ampere",
        80,
        1710,
        70.0,
        70.0,
        70.0,
        35.0,
        600,
        6,
        25,
        25,
        2.5,
        "a100-sxm",
        "public A10G specification, 24 GB",
    ),
    _gpu(
        "l4",
        "ada",
        58,
        2040,
        121.0,
        242.0,
        242.0,
        30.3,
        300,
        48,
        25,
        25,
        2.3,
        "l40s",
        "NVIDIA L4 datasheet, 24 GB (dense = half of the sparse figure)",
    ),
    _gpu(
        "l40s",
        "ada",
        142,
        2520,
        362.0,
        733.0,
        733.0,
        91.6,
        864,
        96,
        25,
        25,
        2.3,
        "l40s",
        "NVIDIA L40S datasheet, 48 GB",
    ),
    _gpu(
        "rtx-4090",
        "ada",
        128,
        2520,
        165.2,
        330.3,
        330.3,
        82.6,
        1008,
        72,
        25,
        25,
        2.3,
        "l40s",
        "NVIDIA Ada architecture white paper, FP32 accumulate",
    ),
    _gpu(
        "rtx-5090",
        "blackwell",
        170,
        2407,
        209.5,
        419.0,
        1676.0,
        104.8,
        1792,
        96,
        50,
        50,
        2.2,
        "rtx-pro-6000",
        "NVIDIA RTX Blackwell architecture white paper, FP32 accumulate",
    ),
    _gpu(
        "rtx-pro-6000",
        "blackwell",
        188,
        2430,
        438.0,
        876.0,
        1752.0,
        109.7,
        1597,
        128,
        50,
        50,
        2.2,
        "rtx-pro-6000",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition datasheet, 96 GB",
    ),
    _gpu(
        "b200-sxm",
        "blackwell",
        148,
        1965,
        2250.0,
        4500.0,
        9000.0,
        75.0,
        8000,
        126,
        900,
        55,
        2.2,
        "b200-sxm",
        "NVIDIA HGX B200 datasheet, 180 GB",
    ),
    _gpu(
        "gb200",
        "blackwell",
        152,
        2062,
        2500.0,
        5000.0,
        10000.0,
        80.0,
        8000,
        126,
        900,
        200,
        2.2,
        "b200-sxm",
        "NVIDIA GB200 NVL72 datasheet, per GPU",
    ),
    _gpu(
        "h800",
        "hopper",
        132,
        1830,
        989.4,
        1978.9,
        1978.9,
        66.9,
        3352,
        50,
        200,
        55,
        2.2,
        "h100-sxm",
        "public H800 specification: H100 SXM with 400 GB/s NVLink; only in measured tables",
    ),
]

GPUS: dict[str, Gpu] = {g.key: g for g in _ROWS}

_ALIASES = {
    "rtx-pro-6000-server": "rtx-pro-6000",
    "a100-sxm-80": "a100-sxm",
    "a100-sxm4-80gb": "a100-sxm",
    "a100-80": "a100-sxm",
    "a100-40": "a100-sxm-40",
    "a100-dgx": "a100-sxm",
    "h100-dgx": "h100-sxm",
    "a100-pairwise-nvlink": "a100-sxm",
    "a100": "a100-sxm",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
    "b200": "b200-sxm",
    "gb200-sxm": "gb200",
    "rtx4090": "rtx-4090",
    "rtx5090": "rtx-5090",
}


def normalise_gpu_key(key: str) -> str:
    """`H100_SXM` -> `h100-sxm`; aliases of measured tables (`rtx_pro_6000_server`) become catalogue keys."""
    plain = key.strip().lower().replace("_", "-").replace(" ", "-")
    return _ALIASES.get(plain, plain)


def find_gpu(key: str) -> Gpu:
    """The GPU with this key, hyphen or underscore. Raises UnknownGpuError naming the known keys."""
    plain = normalise_gpu_key(key)
    if plain not in GPUS:
        raise UnknownGpuError(f"unknown GPU '{key}'; known: {', '.join(sorted(GPUS))}")
    return GPUS[plain]
