"""The operator sweep: measures the planned cells in order, writes each row at once, stops at its budget, goes on
when started again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revati.calibration.cells import Cell, plan_cells
from revati.calibration.measure.conditions import NoGpuError, open_nvml, session_facts
from revati.calibration.measure.operators import Bench, UnsupportedCellError, Work
from revati.calibration.measure.timing import Timing, kernels_of, measure, measure_dry
from revati.calibration.rows import RowWriter

__all__ = ["main", "run_sweep"]

_STATE_EVERY = 8  # cells between two full readings of the GPU's state; clocks are read for each


def run_sweep(
    out: Path, cells: Sequence[Cell], budget_s: float, *, dry: bool = False, cupti: bool = False, fallback: bool = True
) -> dict[str, int]:
    """Measures `cells` into OUT/sweep.jsonl (CUPTI kernels: OUT/kernels.jsonl) for at most `budget_s` seconds.

    `fallback`: torch stands in for vLLM's kernels where vLLM is not installed. Returns counts: measured, failed, left.
    Raises NoGpuError for a real run without a GPU.
    """
    import torch

    nvml = open_nvml(dry)
    if not dry and not torch.cuda.is_available():
        raise NoGpuError("torch sees no GPU; add --dry-run to try the code without one")
    deadline = time.monotonic() + budget_s
    writer = RowWriter(out / ("kernels.jsonl" if cupti else "sweep.jsonl"), session_facts(nvml), dry=dry)
    bench = Bench(dry, fallback)
    if not dry:
        _warm_up(bench)
    todo = [c for c in cells if c.key not in writer.done and not (cupti and c.family in ("copy", "graph"))]
    counts = {"measured": 0, "failed": 0, "left": 0}
    for number, cell in enumerate(todo):
        if time.monotonic() > deadline:
            counts["left"] = len(todo) - number
            break
        try:
            values = _one(bench, cell, dry, cupti)
        except UnsupportedCellError as reason:
            writer.error(cell.key, str(reason), again=True)
            counts["failed"] += 1
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError) as problem:
            writer.error(cell.key, f"{type(problem).__name__}: {problem}")
            counts["failed"] += 1
            if "illegal memory access" in str(problem) or "unspecified launch failure" in str(problem):
                counts["left"] = len(todo) - number - 1
                break  # the context is gone; the next start goes on after this cell
            bench.release()
        else:
            if nvml is not None:
                values.update(nvml.state())
            writer.row(cell.key, values)
            counts["measured"] += 1
    writer.close()
    return counts


def _one(bench: Bench, cell: Cell, dry: bool, cupti: bool) -> dict[str, Any]:
    names = {"family": cell.family, **cell.as_dict(), "l2": cell.l2, "tier": cell.tier, "split": cell.split}
    if cell.family == "graph":
        return {
            **names,
            "framework": "torch",
            "version": bench.torch.__version__,
            "kernel": "cudaGraphLaunch",
            **_graph_launch(bench, int(cell.params[0]), dry),
        }
    work = bench.build(cell)
    names.update(framework=work.framework, version=bench.version(work.framework), kernel=work.kernel)
    if cupti:
        kernels = kernels_of(work.calls[0]) if not dry else []
        return {
            **names,
            "kernels": [[name, round(us, 3)] for name, us in kernels],
            "lat_us": round(sum(k[1] for k in kernels), 4),
        }
    timing: Timing = measure_dry(work.calls) if dry else _timed(work)
    return {**names, **timing.as_dict()}


def _timed(work: Work) -> Timing:
    timing = measure(work.calls, capture=work.capture)
    if timing.p90_us > 1.5 * timing.lat_us:  # a clock change or a neighbour in the middle: once more
        timing = measure(work.calls, capture=work.capture)
    return timing


def _graph_launch(bench: Bench, nodes: int, dry: bool) -> dict[str, Any]:
    """GPU microseconds of one replay of `nodes` tiny kernels, and host microseconds of the launch call itself."""
    torch = bench.torch
    x = bench._random(1)
    if dry:
        return measure_dry([lambda: [x.add_(1.0) for _ in range(min(nodes, 8))]]).as_dict()
    graph = torch.cuda.CUDAGraph()
    x.add_(1.0)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(nodes):
            x.add_(1.0)
    graph.replay()
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    gpu, host, whole = [], [], []
    for _ in range(20):
        before = time.perf_counter_ns()
        start.record()
        launch = time.perf_counter_ns()
        graph.replay()
        launched = time.perf_counter_ns()
        end.record()
        end.synchronize()
        whole.append((time.perf_counter_ns() - before) / 1000)
        host.append((launched - launch) / 1000)
        gpu.append(start.elapsed_time(end) * 1000)
    gpu.sort()
    host.sort()
    whole.sort()
    return {
        "lat_us": round(gpu[10], 3),
        "min_us": round(gpu[0], 3),
        "p90_us": round(gpu[17], 3),
        "host_us": round(host[10], 3),
        "whole_us": round(whole[10], 3),
        "calls": 1,
        "replays": 20,
        "method": "graph",
    }


def _warm_up(bench: Bench, seconds: float = 1.5) -> None:
    """Brings the clocks up from idle, so that the first cells are measured as the later ones are."""
    x = bench._random(4096, 4096)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(20):
            x @ x
        bench.torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `scripts/gpu/sweep`."""
    parser = argparse.ArgumentParser(prog="sweep", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the result files")
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--model", action="append", default=[], help="limit to a reference model; may be repeated")
    parser.add_argument("--family", action="append", default=[], help="limit to a family of operators; may be repeated")
    parser.add_argument("--tiers", default="0,1,2", help="which tiers, comma-separated (default 0,1,2)")
    parser.add_argument("--limit", type=int, default=0, help="at most this many cells")
    parser.add_argument(
        "--cupti", action="store_true", help="kernel names and durations from CUPTI instead of operator times"
    )
    parser.add_argument(
        "--no-fallback", action="store_true", help="leave out what vLLM would measure, where there is no vLLM"
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; rows are marked dry")
    args = parser.parse_args(argv)
    try:
        cells = plan_cells(args.model, args.family, [int(t) for t in args.tiers.split(",")])
        counts = run_sweep(
            args.out,
            cells[: args.limit or None],
            args.budget,
            dry=args.dry_run,
            cupti=args.cupti,
            fallback=not args.no_fallback,
        )
    except (ValueError, NoGpuError) as problem:
        print(f"sweep: {problem}", file=sys.stderr)
        return 2
    print(f"sweep: {counts['measured']} cells measured, {counts['failed']} not possible here, {counts['left']} left")
    return 0
