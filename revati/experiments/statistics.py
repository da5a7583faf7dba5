"""The coordinator's counters over the load: GPU time by operator family, coverage, clock."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from revati_predictors.results import statement

__all__ = ["load_span", "load_statistics"]


def load_statistics(raw: dict[str, Any]) -> dict[str, Any]:
    """Differences between the snapshots at the start and the end of the load; {} if there was no load."""
    snapshots = raw.get("snapshots", {})
    end = snapshots.get("load-end") or snapshots.get("end")
    start = snapshots.get("load-start")
    if end is None or start is None:
        return {}
    before, after = start["use"], end["use"]
    families = {}
    for name, time_ns in after["family_ns"].items():
        grown = time_ns - before["family_ns"].get(name, 0)
        launches = after["launches"].get(name, 0) - before["launches"].get(name, 0)
        if grown or launches:
            families[name] = {"time_ns": grown, "launches": launches}
    sources = {name: value - before["source_ns"].get(name, 0) for name, value in after["source_ns"].items()}
    asked = dict(end.get("predictor", {}))
    operators = [grown - old for grown, old in zip_longest(after["operator_ns"], before["operator_ns"], fillvalue=0)]
    predicted = statement({name: row["time_ns"] for name, row in families.items()}, sources, operators, asked)
    asked.pop("operators", None)
    notes = [line.removeprefix("WARNING: ") for line in [predicted["warning"]] if line is not None]
    unknown = after["unknown_reads"] - before["unknown_reads"]
    if unknown:
        notes.append(f"{unknown} reads of device memory that nothing had computed")
    if after["unsupported_calls"]:
        notes.append(f"{after['unsupported_calls']} calls that the virtual device lacks")
    lost = end.get("turns_lost", 0) - start.get("turns_lost", 0)
    if lost:
        notes.append(
            f"{lost} threads went on beside one that computed without end: another run may order them in another way"
        )
    return {
        "pack": raw.get("pack"),
        "gpu_busy_ns": [gpu["busy_ns"] - old["busy_ns"] for gpu, old in zip(after["gpus"], before["gpus"])],
        "gpu_peak_bytes": [gpu["peak_bytes"] for gpu in after["gpus"]],
        "gpu_total_bytes": [gpu["total_bytes"] for gpu in after["gpus"]],
        "families": families,
        "coverage": predicted["coverage"],
        "interval": predicted["interval"],
        "uncovered": predicted["uncovered"],
        "warning": predicted["warning"],
        "virtual_ns": end["virtual_ns"] - start["virtual_ns"],
        "real_ns": end["real_ns"] - start["real_ns"],
        "jumps": end["jumps"] - start["jumps"],
        "unknown_reads": unknown,
        "unsupported_calls": after["unsupported_calls"],
        "memo_misses": after["memo_misses"] - before["memo_misses"],
        "predictor": asked,
        "timeline": _timeline(raw, start["virtual_ns"], end["virtual_ns"]),
        "notes": notes,
    }


def load_span(raw: dict[str, Any]) -> tuple[int, int]:
    """Start and end of the load on the run's clock, in ns; only where load_statistics has found a load."""
    snapshots = raw["snapshots"]
    return snapshots["load-start"]["now_ns"], (snapshots.get("load-end") or snapshots["end"])["now_ns"]


def _timeline(raw: dict[str, Any], start_ns: int, end_ns: int) -> list[dict[str, Any]]:
    """Looks at the counters during the load, with times after its start. Taken in real time: for drawing only."""
    return [
        {"time_ns": row["virtual_ns"] - start_ns, "gpus": row["gpus"], "family_ns": row["family_ns"]}
        for row in raw.get("timeline", [])
        if start_ns <= row["virtual_ns"] <= end_ns
    ]
