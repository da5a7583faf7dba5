"""A real result and an emulated one side by side: errors of every metric and percentile, distributions, steps,
batches, KV blocks.

Both sides are folders made by `scripts/gpu/serving` (results of `vllm bench serve --save-detailed`, the step trace,
the start-up facts); a public run may be a table of requests (arrival_us, ttft_ms, e2e_ms, tpot_ms, output_tokens).
The real system's own spread between repeats stands beside every error: no emulation can be asked to be closer to
the card than the card is to itself.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from revati._errors import UsageError

__all__ = [
    "Requests",
    "Steps",
    "bucket",
    "compare_folders",
    "compare_requests",
    "compare_startup",
    "load_requests",
    "load_steps",
    "percentile",
    "startup_of",
]

METRICS = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
_CDF_POINTS = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)


@dataclass(frozen=True)
class Requests:
    """What the client saw of one run, request by request in order of sending; milliseconds."""

    ttft_ms: list[float]
    tpot_ms: list[float]
    itl_ms: list[float]
    e2e_ms: list[float]
    duration_s: float
    output_tokens: int
    window_ns: tuple[int, int] = (0, 0)

    def values(self, metric: str) -> list[float]:
        return list(getattr(self, metric))

    @property
    def throughput(self) -> float:
        """Output tokens per second."""
        return self.output_tokens / self.duration_s if self.duration_s else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between ranks, `share` in percent; NaN for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def statistic(values: Sequence[float], name: str) -> float:
    if name == "mean":
        return statistics.fmean(values) if values else math.nan
    return percentile(values, float(name[1:]))


def load_requests(path: Path) -> Requests:
    """One run from a bench result (.json) or a table of requests (.csv, .csv.gz). Raises UsageError if it is
    neither.
    """
    try:
        if path.suffix == ".json":
            return _from_bench(json.loads(path.read_text()))
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            return _from_table(list(csv.DictReader(file)))
    except (OSError, ValueError, KeyError) as problem:
        raise UsageError(
            f"{path}: not a result of bench serve --save-detailed or a table of requests ({problem})"
        ) from None


def _from_bench(result: dict[str, Any]) -> Requests:
    ttft, tpot, itl, e2e, tokens = [], [], [], [], 0
    for first, gaps, count in zip(result["ttfts"], result["itls"], result["output_lens"]):
        if count <= 0:
            continue
        rest = sum(gaps)
        ttft.append(first * 1000)
        e2e.append((first + rest) * 1000)
        itl += [g * 1000 for g in gaps]
        if count > 1:
            tpot.append(rest * 1000 / (count - 1))
        tokens += count
    window = result.get("revati", {}).get("monotonic_ns", (0, 0))
    return Requests(ttft, tpot, itl, e2e, float(result["duration"]), tokens, (int(window[0]), int(window[1])))


def _from_table(rows: list[dict[str, str]]) -> Requests:
    rows = sorted(rows, key=lambda r: float(r["arrival_us"]))
    e2e = [float(r["e2e_ms"]) for r in rows]
    ends = [float(r["arrival_us"]) / 1000 + t for r, t in zip(rows, e2e)]
    begin = float(rows[0]["arrival_us"]) / 1000
    return Requests(
        [float(r["ttft_ms"]) for r in rows],
        [float(r["tpot_ms"]) for r in rows],
        [],
        e2e,
        (max(ends) - begin) / 1000,
        sum(int(r["output_tokens"]) for r in rows),
    )


def compare_requests(real: Sequence[Requests], emulated: Requests) -> dict[str, Any]:
    """Metrics of the real repeats (mean over them, and their spread) and of the emulated run; errors in percent,
    signed.
    """
    metrics: dict[str, Any] = {}
    for metric in METRICS:
        if not all(r.values(metric) for r in [*real, emulated]):
            continue
        entry: dict[str, Any] = {}
        for name in STATISTICS:
            each = [statistic(r.values(metric), name) for r in real]
            entry[name] = _error(each, statistic(emulated.values(metric), name))
        pooled = [v for r in real for v in r.values(metric)]
        entry["ks_distance"] = round(_ks(pooled, emulated.values(metric)), 4)
        entry["cdf"] = {
            "share": list(_CDF_POINTS),
            "real": [round(percentile(pooled, s), 4) for s in _CDF_POINTS],
            "emulated": [round(percentile(emulated.values(metric), s), 4) for s in _CDF_POINTS],
        }
        metrics[metric] = entry
    metrics["throughput"] = _error([r.throughput for r in real], emulated.throughput)
    same = [_per_request(r, emulated) for r in real]
    return {
        "requests": {"real": [len(r.ttft_ms) for r in real], "emulated": len(emulated.ttft_ms)},
        "metrics": metrics,
        "per_request": same[0] if same else {},
    }


def _error(real: Sequence[float], emulated: float) -> dict[str, Any]:
    """real: mean of the repeats; spread: (largest - smallest) / mean, in percent, None for a single run."""
    mean = statistics.fmean(real)
    return {
        "real": _short(mean),
        "emulated": _short(emulated),
        "error_pct": round(100 * (emulated / mean - 1), 3) if mean else 0.0,
        "spread_pct": round(100 * (max(real) - min(real)) / mean, 3) if mean and len(real) > 1 else None,
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _ks(a: Sequence[float], b: Sequence[float]) -> float:
    """Largest distance between the two empirical distribution functions."""
    a, b = sorted(a), sorted(b)
    i = j = 0
    largest = 0.0
    while i < len(a) and j < len(b):
        at = min(a[i], b[j])
        while i < len(a) and a[i] <= at:
            i += 1
        while j < len(b) and b[j] <= at:
            j += 1
        largest = max(largest, abs(i / len(a) - j / len(b)))
    return largest


def _per_request(real: Requests, emulated: Requests) -> dict[str, float]:
    """Median absolute error in percent over requests taken one by one; only where both runs sent the same requests."""
    if len(real.ttft_ms) != len(emulated.ttft_ms):
        return {}
    found = {}
    for metric in ("ttft_ms", "e2e_ms", "tpot_ms"):
        pairs = [(a, b) for a, b in zip(real.values(metric), emulated.values(metric)) if a > 0]
        if pairs:
            found[f"{metric}_median_abs_error_pct"] = round(percentile([100 * abs(b / a - 1) for a, b in pairs], 50), 3)
    return found


# Steps


@dataclass(frozen=True)
class Steps:
    """Engine steps in order: composition, start of scheduling and end of update in ns, GPU microseconds (NaN:
    unknown).
    """

    composition: list[tuple[tuple[tuple[int, int], ...], tuple[int, ...]]]
    start_ns: list[int]
    end_ns: list[int]
    gpu_us: list[float]

    def between(self, window: tuple[int, int]) -> Steps:
        """The steps of one run; all of them for an empty window."""
        if window == (0, 0):
            return self
        chosen = [i for i, t in enumerate(self.start_ns) if window[0] <= t <= window[1]]
        return Steps(
            [self.composition[i] for i in chosen],
            [self.start_ns[i] for i in chosen],
            [self.end_ns[i] for i in chosen],
            [self.gpu_us[i] for i in chosen],
        )


def _lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    rows = []
    for path in paths:
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue  # torn by the end of the server
    return rows


def load_steps(folder: Path) -> Steps | None:
    """The step trace in a folder (`engine-*.jsonl`, `worker-*.jsonl`), or None if there is none."""
    engines = sorted(folder.glob("engine-*.jsonl")) if folder.exists() else []
    if not engines:
        return None
    composition, starts, ends, gpu = [], [], [], []
    workers = {p.stem.split("-", 1)[1]: p for p in folder.glob("worker-*.jsonl")}
    for path in engines:
        rows = sorted(_lines([path]), key=lambda r: int(r["i"]))
        worker = workers.get(path.stem.split("-", 1)[1]) or (
            next(iter(workers.values())) if len(workers) == 1 else None
        )
        times = _gpu_times(rows, _lines([worker]) if worker else [])
        for row, us in zip(rows, times):
            prefill = tuple(sorted((int(q), int(kv)) for q, kv in row["prefill"]))
            composition.append((prefill, tuple(sorted(int(kv) for kv in row["decode"]))))
            starts.append(int(row["t"][0]))
            ends.append(int(row["t"][3]))
            gpu.append(us)
    return Steps(composition, starts, ends, gpu)


def _gpu_times(engine: list[dict[str, Any]], worker: list[dict[str, Any]]) -> list[float]:
    """GPU microseconds by engine step. The worker also ran warm-up steps first, so the two are matched by their
    token counts.
    """
    wanted = [int(r["tokens"]) for r in engine]
    got = [int(r["tokens"]) for r in worker]
    for offset in range(len(got) - len(wanted) + 3):
        overlap = min(len(wanted), len(got) - offset)
        if overlap > 0 and got[offset : offset + overlap] == wanted[:overlap] and overlap >= len(wanted) - 2:
            times = [float(r["gpu_us"]) for r in worker[offset : offset + overlap]]
            return times + [math.nan] * (len(wanted) - overlap)
    return [math.nan] * len(wanted)


def compare_steps(real: Steps, emulated: Steps) -> dict[str, Any]:
    """Batch compositions step by step and aligned, and GPU durations by kind of step."""
    count = min(len(real.composition), len(emulated.composition))
    same = sum(a == b for a, b in zip(real.composition, emulated.composition))
    matcher = SequenceMatcher(
        None, [hash(c) for c in real.composition], [hash(c) for c in emulated.composition], autojunk=False
    )
    aligned = sum(block.size for block in matcher.get_matching_blocks()) if len(real.composition) < 6000 else same
    kinds = _by_kind(real), _by_kind(emulated)
    durations = {}
    for kind in sorted(set(kinds[0]) & set(kinds[1])):
        a, b = (statistics.median(k[kind]) for k in kinds)
        durations[kind] = {
            "real_us": _short(a),
            "emulated_us": _short(b),
            "error_pct": round(100 * (b / a - 1), 2),
            "steps": [len(kinds[0][kind]), len(kinds[1][kind])],
        }
    return {
        "steps": [len(real.composition), len(emulated.composition)],
        "same_in_place_pct": round(100 * same / count, 2) if count else None,
        "same_aligned_pct": round(100 * aligned / max(1, len(real.composition)), 2),
        "gpu_us_by_kind": durations,
    }


def _by_kind(steps: Steps) -> dict[str, list[float]]:
    """GPU microseconds by what a step ran: decode by batch size (power of two), prefill by tokens."""
    kinds: defaultdict[str, list[float]] = defaultdict(list)
    for (prefill, decode), us in zip(steps.composition, steps.gpu_us):
        if math.isnan(us):
            continue
        if not prefill:
            kinds[f"decode of {bucket(len(decode))}"].append(us)
        else:
            kinds[f"{'mixed' if decode else 'prefill'}, {bucket(sum(q for q, _ in prefill))} prompt tokens"].append(us)
    return {k: v for k, v in kinds.items() if len(v) >= 3}


def bucket(value: int) -> str:
    """The power-of-two range that holds a count: 1, 2, 3-4, 5-8, ..."""
    high = 1 << max(0, math.ceil(math.log2(max(1, value))))
    low = high // 2 + 1
    return str(high) if low >= high else f"{low}-{high}"


# Kernels


def kernel_counts(folder: Path) -> Counter[str]:
    """Kernels by shortened name: from a profile (`kernels.jsonl.gz`) or from counts of an emulated run
    (`kernel_counts.json`).
    """
    counts: Counter[str] = Counter()
    profile, listed = folder / "kernels.jsonl.gz", folder / "kernel_counts.json"
    if profile.exists():
        with gzip.open(profile, "rt", encoding="utf-8") as file:
            counts.update(short_kernel(str(json.loads(line)["name"])) for line in file)
    elif listed.exists():
        for name, number in json.loads(listed.read_text()).items():
            counts[short_kernel(name)] += int(number)
    return counts


def short_kernel(name: str) -> str:
    """A kernel's function name without return type, namespaces, template arguments and parameters."""
    kept: list[str] = []
    depth = 0
    for char in name:
        depth += (char in "<(") - (char in ">)")
        if char in "<(" and depth == 1 and kept and char == "(":
            break
        if depth == 0 and char not in ">)":
            kept.append(char)
    short = re.sub(r"^void\s+", "", "".join(kept)).strip()
    return short.rsplit("::", 1)[-1] or name


# A whole case


def compare_folders(real: Path, emulated: Path) -> dict[str, Any]:
    """Everything both folders of a case have: runs by name, steps, start-up, kernel counts. Raises UsageError if
    nothing matches.
    """
    runs: dict[str, Any] = {}
    steps = load_steps(real / "steps"), load_steps(emulated / "steps")
    names = sorted({p.stem.rsplit("-", 1)[0] for p in real.glob("*-[0-9].json")})
    for name in names:
        theirs = [load_requests(p) for p in sorted(real.glob(f"{name}-[0-9].json"))]
        ours = sorted(emulated.glob(f"{name}-[0-9].json"))
        if not ours:
            continue
        run = load_requests(ours[0])
        runs[name] = compare_requests(theirs, run)
        if steps[0] and steps[1]:
            runs[name]["steps"] = compare_steps(steps[0].between(theirs[0].window_ns), steps[1].between(run.window_ns))
            if len(theirs) > 1:
                again = compare_steps(steps[0].between(theirs[0].window_ns), steps[0].between(theirs[1].window_ns))
                runs[name]["steps_of_real_repeats"] = {
                    k: again[k] for k in ("steps", "same_in_place_pct", "same_aligned_pct")
                }
    offline = _compare_offline(real / "offline.jsonl", emulated / "offline.jsonl")
    if not runs and not offline:
        raise UsageError(f"{real} and {emulated} have no run in common; expected NAME-1.json or offline.jsonl in both")
    report: dict[str, Any] = {
        "runs": runs,
        "offline": offline,
        "startup": compare_startup(startup_of(real), startup_of(emulated)),
    }
    counts = kernel_counts(real), kernel_counts(emulated)
    if counts[0] and counts[1]:
        report["kernels"] = {
            name: [counts[0][name], counts[1][name]] for name in sorted(set(counts[0]) | set(counts[1]))
        }
    return report


def _compare_offline(real: Path, emulated: Path) -> dict[str, Any]:
    if not real.exists() or not emulated.exists():
        return {}
    sides = []
    for path in (real, emulated):
        batches: defaultdict[str, list[float]] = defaultdict(list)
        for row in _lines([path]):
            batches[f"{row['batch']} x {row['input']} -> {row['output']}"].append(float(row["seconds"]))
        sides.append(batches)
    return {name: _error(sides[0][name], statistics.fmean(sides[1][name])) for name in sides[0] if name in sides[1]}


def startup_of(folder: Path) -> dict[str, float]:
    """The start-up facts of a folder of results; empty if there are none."""
    path = folder / "startup.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def compare_startup(real: dict[str, float], emulated: dict[str, float]) -> dict[str, Any]:
    """Errors of the numbers that both sides have."""
    return {n: _error([real[n]], emulated[n]) for n in real if n in emulated and n != "ready_s"}
