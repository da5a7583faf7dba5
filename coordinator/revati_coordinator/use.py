"""What a run has used so far, read from the device part of the shared page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FAMILIES", "SOURCES", "DeviceUse", "GpuUse", "read_use"]

# enum rvt_family and enum rvt_source of csrc/include/rvt_op.h; tests/unit compares them with the header.
FAMILIES = (
    "other", "gemm", "attention", "mla", "moe", "quant", "norm", "activation", "rope", "embedding", "sampling",
    "kv_write", "elementwise", "copy", "collective", "metadata",
)  # fmt: skip
SOURCES = ("measured", "interpolated", "extrapolated", "fallback")


@dataclass(frozen=True)
class GpuUse:
    """One virtual card; `clients` maps pids to bytes in use."""

    name: str
    uuid: str
    bus_id: str
    total_bytes: int
    nvml_total_bytes: int
    used_bytes: int
    peak_bytes: int
    busy_ns: int
    power_limit_w: int
    clients: dict[int, int]


@dataclass(frozen=True)
class DeviceUse:
    """Sums over the run: predicted kernel time by operator family and by source, and what could not be answered."""

    gpus: list[GpuUse]
    family_ns: dict[str, int]
    source_ns: dict[str, int]
    launches: dict[str, int]
    operator_ns: list[int]  # of operators that no table covers, by the predictor's index
    memo_hits: int
    memo_misses: int
    unknown_reads: int
    oracle_reads: int
    unsupported_calls: int

    @property
    def total_ns(self) -> int:
        return sum(self.family_ns.values())

    def family_share(self) -> dict[str, float]:
        """Family -> share of GPU time, largest first; only families that took any."""
        total = self.total_ns
        shares = {name: ns / total for name, ns in self.family_ns.items() if ns} if total else {}
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))

    def source_share(self) -> dict[str, float]:
        total = self.total_ns
        return {name: ns / total for name, ns in self.source_ns.items()} if total else {}


def _without_tail(values: list[int]) -> list[int]:
    """Up to the last one that is not zero."""
    used = next((i for i in range(len(values), 0, -1) if values[i - 1]), 0)
    return values[:used]


def _chars(array: Any) -> str:
    return bytes(array).split(b"\0", 1)[0].decode(errors="replace")


def read_use(page: Any) -> DeviceUse:
    """Reads a cffi `struct rvt_device_page *` while processes write it: single words, no snapshot across words."""
    clients: dict[int, dict[int, int]] = {}
    for client in page.clients:
        if client.pid > 0:
            of_gpu = clients.setdefault(client.gpu, {})
            of_gpu[client.pid] = of_gpu.get(client.pid, 0) + client.used_bytes
    gpus = []
    for index in range(page.gpu_count):
        gpu, use = page.gpus[index], page.use[index]
        gpus.append(
            GpuUse(
                name=_chars(_bytes(gpu.name)),
                uuid=_chars(_bytes(gpu.uuid)),
                bus_id=_chars(_bytes(gpu.pci_bus_id)),
                total_bytes=gpu.total_bytes,
                nvml_total_bytes=gpu.nvml_total_bytes,
                used_bytes=use.used_bytes,
                peak_bytes=use.peak_bytes,
                busy_ns=use.busy_ns,
                power_limit_w=gpu.power_limit_mw // 1000,
                clients=clients.get(index, {}),
            )
        )
    times = [[int(page.time_ns[family][source]) for source in range(len(SOURCES))] for family in range(len(FAMILIES))]
    return DeviceUse(
        gpus=gpus,
        family_ns={name: sum(row) for name, row in zip(FAMILIES, times)},
        source_ns={name: sum(row[number] for row in times) for number, name in enumerate(SOURCES)},
        launches={name: int(page.launches[number]) for number, name in enumerate(FAMILIES)},
        operator_ns=_without_tail(list(page.operator_ns)),
        memo_hits=page.memo_hits,
        memo_misses=page.memo_misses,
        unknown_reads=page.unknown_reads,
        oracle_reads=page.oracle_reads,
        unsupported_calls=page.unsupported_calls,
    )


def _bytes(array: Any) -> bytes:
    return b"".join(array)
