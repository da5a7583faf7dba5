"""The run's own metrics in Prometheus text format, time-stamped with virtual time."""

from __future__ import annotations

from revati_coordinator.host import HostStatus
from revati_coordinator.use import DeviceUse

__all__ = ["prometheus_text"]

_COUNTERS = {
    "jumps": "Times the virtual clock moved",
    "fires": "Threads woken by a deadline",
    "rounds": "Rounds given to busy pollers",
    "turns": "Woken threads that went on in their turn",
    "turns_lost": "Turns that nobody gave in time",
    "aborts": "Quiescence proofs that found something running",
    "slow_proofs": "Proofs with threads in unmarked waits",
}
_GAUGES = {
    "processes": "Processes alive",
    "threads": "Threads enrolled",
    "running": "Threads not blocked",
    "spinning": "Parked busy pollers",
    "actors": "External actors",
    "holds": "Holds on the clock",
}


def prometheus_text(status: HostStatus, use: DeviceUse) -> str:
    """One exposition; every sample carries the virtual REALTIME in milliseconds."""
    stamp = status.realtime_ns // 1_000_000
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: list[tuple[str, float]]) -> None:
        lines.append(f"# HELP revati_{name} {text}.")
        lines.append(f"# TYPE revati_{name} {kind}")
        lines.extend(f"revati_{name}{labels} {value:.12g} {stamp}" for labels, value in samples)

    family("virtual_seconds_total", "counter", "Virtual time since the start", [("", status.virtual_ns / 1e9)])
    family("real_seconds_total", "counter", "Host time since the start", [("", status.real_ns / 1e9)])
    family("proof_seconds_total", "counter", "Host time spent proving quiescence", [("", status.proof_ns / 1e9)])
    for name, text in _COUNTERS.items():
        family(f"{name}_total", "counter", text, [("", getattr(status, name))])
    for name, text in _GAUGES.items():
        family(name, "gauge", text, [("", getattr(status, name))])
    gpus = list(enumerate(use.gpus))
    family("gpu_memory_used_bytes", "gauge", "Memory in use", [(f'{{gpu="{i}"}}', g.used_bytes) for i, g in gpus])
    family("gpu_memory_peak_bytes", "gauge", "Most memory in use", [(f'{{gpu="{i}"}}', g.peak_bytes) for i, g in gpus])
    family("gpu_busy_seconds_total", "counter", "Kernel time", [(f'{{gpu="{i}"}}', g.busy_ns / 1e9) for i, g in gpus])
    family(
        "operator_seconds_total",
        "counter",
        "Kernel time by operator family",
        [(f'{{family="{name}"}}', ns / 1e9) for name, ns in use.family_ns.items() if ns],
    )
    family(
        "source_seconds_total",
        "counter",
        "Kernel time by source of its prediction",
        [(f'{{source="{name}"}}', ns / 1e9) for name, ns in use.source_ns.items()],
    )
    family("memo_misses_total", "counter", "Predictions asked of the predictor service", [("", use.memo_misses)])
    family("unknown_reads_total", "counter", "Read-backs of unknown device memory", [("", use.unknown_reads)])
    family("unsupported_calls_total", "counter", "Calls that the virtual device lacks", [("", use.unsupported_calls)])
    return "\n".join(lines) + "\n"
