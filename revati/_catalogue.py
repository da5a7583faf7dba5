"""The device catalogue: what each virtual GPU reports about itself, from revati/data/gpus/*.yaml.

`load_gpu` gives one card, `parse_gpu_option` reads `--gpu NAME[:N]`, and `fill_device_page` writes the cards of a run
into the shared page that the preload library reads. Sizes are bytes unless the name says MiB or kHz.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from revati._errors import UnknownNameError, UsageError

__all__ = ["MIB", "Gpu", "GpuSet", "fill_device_page", "gpu_keys", "load_gpu", "parse_gpu_option", "sources"]

MIB = 1 << 20
# The newest public driver branch for CUDA 13.0, which vLLM 0.25.1 and SGLang 0.5.15 ask for.
DRIVER_VERSION = 13000
DRIVER_STRING = "580.65.06"
MAX_GPUS = 16


@dataclass(frozen=True)
class Gpu:
    """One kind of card. `attributes` maps CUdevice_attribute numbers to values."""

    key: str
    aliases: tuple[str, ...]
    name: str
    compute_capability: tuple[int, int]
    sm_count: int
    total_bytes: int
    nvml_total_bytes: int
    reserved_bytes: int
    context_bytes: int
    l2_bytes: int
    clock_khz: int
    memory_clock_khz: int
    memory_bus_bits: int
    power_limit_w: int
    nvlinks: int
    nvlink_version: int
    pcie_generation: int
    pcie_width: int
    topology: str
    peer_access: bool
    cards_per_host: int
    attributes: Mapping[int, int]


@dataclass(frozen=True)
class GpuSet:
    """The cards of a run: `count` times `gpu`."""

    gpu: Gpu
    count: int


def _data(name: str) -> Any:
    return yaml.safe_load((resources.files("revati") / "data" / name).read_text(encoding="utf-8"))


@cache
def _files() -> dict[str, Any]:
    folder = resources.files("revati") / "data" / "gpus"
    entries = [yaml.safe_load(p.read_text(encoding="utf-8")) for p in folder.iterdir() if p.name.endswith(".yaml")]
    for entry in entries:
        entry["aliases"] = [str(alias) for alias in entry["aliases"]]
    return {entry["key"]: entry for entry in sorted(entries, key=lambda e: str(e["key"]))}


def sources() -> dict[str, str]:
    """Source key -> where numbers with that key come from."""
    return dict(_data("gpu_sources.yaml"))


def gpu_keys() -> list[str]:
    return list(_files())


def _canonical(name: str) -> str:
    wanted = name.strip().lower().replace("_", "-")
    for key, entry in _files().items():
        if wanted == key or wanted in entry["aliases"]:
            return key
    aliases = [alias for entry in _files().values() for alias in entry["aliases"]]
    raise UnknownNameError("GPU", name, [*_files(), *aliases])


@cache
def load_gpu(name: str) -> Gpu:
    """The card of that key or alias. Raises UnknownNameError with the nearest names."""
    entry = _files()[_canonical(name)]
    capability = str(entry["compute_capability"][0])
    major, minor = (int(part) for part in capability.split("."))
    memory = entry["memory"]
    topology = _data("topologies.yaml")[entry["topology"]]
    table = _data("gpu_attributes.yaml")
    merged = {**table["common"], **table["by_compute_capability"][capability]}
    named = {attribute: int(pair[0]) for attribute, pair in merged.items()}
    named.update(
        CLOCK_RATE=entry["clock_khz"][0],
        MULTIPROCESSOR_COUNT=entry["sm_count"][0],
        MEMORY_CLOCK_RATE=memory["clock_khz"][0],
        GLOBAL_MEMORY_BUS_WIDTH=memory["bus_bits"][0],
        L2_CACHE_SIZE=entry["l2_mib"][0] * MIB,
        ASYNC_ENGINE_COUNT=entry["copy_engines"][0],
        COMPUTE_CAPABILITY_MAJOR=major,
        COMPUTE_CAPABILITY_MINOR=minor,
        GPU_PCI_DEVICE_ID=entry["pci_device_id"][0],
        MULTICAST_SUPPORTED=int(topology["multicast"]),
    )
    return Gpu(
        key=entry["key"],
        aliases=tuple(entry["aliases"]),
        name=entry["name"][0],
        compute_capability=(major, minor),
        sm_count=entry["sm_count"][0],
        total_bytes=memory["runtime_total_mib"][0] * MIB,
        nvml_total_bytes=memory["nvml_total_mib"][0] * MIB,
        reserved_bytes=memory["reserved_mib"][0] * MIB,
        context_bytes=memory["context_mib"][0] * MIB,
        l2_bytes=entry["l2_mib"][0] * MIB,
        clock_khz=entry["clock_khz"][0],
        memory_clock_khz=memory["clock_khz"][0],
        memory_bus_bits=memory["bus_bits"][0],
        power_limit_w=entry["power_limit_w"][0],
        nvlinks=entry["nvlink"]["links"][0],
        nvlink_version=entry["nvlink"]["version"][0],
        pcie_generation=entry["pcie"]["generation"][0],
        pcie_width=entry["pcie"]["width"][0],
        topology=entry["topology"],
        peer_access=bool(topology["peer_access"]),
        cards_per_host=int(topology["cards"]),
        attributes={table["numbers"][attribute]: value for attribute, value in named.items()},
    )


def parse_gpu_option(text: str) -> GpuSet:
    """Reads `NAME` or `NAME:N`. Raises UsageError for a count outside 1..16."""
    match = re.fullmatch(r"([^:]+)(?::(\d+))?", text)
    if not match:
        raise UsageError(f"--gpu {text!r}: expected NAME or NAME:COUNT, for example h100-sxm:2")
    count = int(match.group(2) or 1)
    if not 1 <= count <= MAX_GPUS:
        raise UsageError(f"--gpu {text}: a virtual host has 1 to {MAX_GPUS} GPUs")
    return GpuSet(load_gpu(match.group(1)), count)


def gpu_uuid(key: str, index: int) -> str:
    """A stable identity per card of a run, in NVML's form."""
    digest = hashlib.sha256(f"revati {key} {index}".encode()).hexdigest()
    return f"GPU-{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def fill_device_page(page: Any, gpus: GpuSet, abi_version: int) -> None:
    """Writes the cards into `page`, a cffi `struct rvt_device_page *` of zeros."""
    page.abi_version = abi_version
    page.gpu_count = gpus.count
    page.driver_version = DRIVER_VERSION
    page.driver_string = DRIVER_STRING.encode()
    page.peer_access = int(gpus.gpu.peer_access)
    for index in range(gpus.count):
        _fill_gpu(page.gpus[index], gpus.gpu, index)


def _fill_gpu(slot: Any, gpu: Gpu, index: int) -> None:
    bus = 0x18 + 0x11 * index
    slot.name = gpu.name.encode()
    slot.uuid = gpu_uuid(gpu.key, index).encode()
    slot.pci_bus_id = f"0000:{bus:02X}:00.0".encode()
    slot.cc_major, slot.cc_minor = gpu.compute_capability
    slot.sm_count = gpu.sm_count
    slot.numa_node = 0
    slot.total_bytes = gpu.total_bytes
    slot.nvml_total_bytes = gpu.nvml_total_bytes
    slot.reserved_bytes = gpu.reserved_bytes
    slot.context_bytes = gpu.context_bytes
    slot.l2_bytes = gpu.l2_bytes
    slot.clock_khz = gpu.clock_khz
    slot.mem_clock_khz = gpu.memory_clock_khz
    slot.mem_bus_bits = gpu.memory_bus_bits
    slot.power_limit_mw = gpu.power_limit_w * 1000
    slot.nvlinks = gpu.nvlinks
    slot.nvlink_version = gpu.nvlink_version
    slot.pcie_gen = gpu.pcie_generation
    slot.pcie_width = gpu.pcie_width
    for number, value in gpu.attributes.items():
        slot.attr[number] = value
    slot.attr[33] = bus  # PCI_BUS_ID
    slot.attr[34] = 0  # PCI_DEVICE_ID
