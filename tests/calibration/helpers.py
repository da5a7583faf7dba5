"""Result files as a card would have given them, with numbers that the tests choose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revati.calibration.cells import Cell

CARD = {"name": "NVIDIA H200", "uuid": "GPU-1", "driver": "580.1", "clocks": {"max_sm_mhz": 1980, "power_limit_w": 700}}


def session_line(session: str = "s1", **changes: Any) -> dict[str, Any]:
    gpu = {**CARD, **changes}
    return {
        "kind": "session",
        "session": session,
        "time": f"2026-01-01T00:00:0{session[-1]}Z",
        "command": "sweep",
        "gpu": gpu,
        "versions": {"torch": "2.11.0"},
    }


def row_line(cell: Cell, lat_us: float, session: str = "s1", **values: Any) -> dict[str, Any]:
    return {
        "kind": "row",
        "key": cell.key,
        "session": session,
        "family": cell.family,
        **cell.as_dict(),
        "l2": cell.l2,
        "split": cell.split,
        "framework": "torch",
        "version": "2.11.0+cu130",
        "kernel": "k",
        "lat_us": lat_us,
        "sm_mhz": 1980,
        "reasons": 0,
        **values,
    }


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def bench_result(
    ttfts_s: Sequence[float], itl_s: float, outputs: int, duration_s: float, start_ns: int = 0
) -> dict[str, Any]:
    """What `vllm bench serve --save-detailed` writes, with equal gaps between tokens."""
    return {
        "ttfts": list(ttfts_s),
        "itls": [[itl_s] * (outputs - 1) for _ in ttfts_s],
        "output_lens": [outputs] * len(ttfts_s),
        "duration": duration_s,
        "completed": len(ttfts_s),
        "revati": {"monotonic_ns": [start_ns, start_ns + int(duration_s * 1e9)]},
    }
