"""What changed between results, and where the time went."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

from revati.experiments.case import changed_keys

__all__ = ["Change", "Tolerance", "causes", "changes", "direction", "not_comparable", "text_report"]

# Metric pattern: +1 more is better, -1 less is better. The first match counts; others have no direction.
_DIRECTIONS: tuple[tuple[str, int], ...] = (
    ("*send_lag_ms.*", 0),
    ("*_ms.*", -1),
    ("*requests.failed", -1),
    ("*requests.ok", 1),
    ("*throughput.*", 1),
    ("*goodput.*", 1),
    ("*fluidity.index", 1),
    ("*deadlines.miss*", -1),
    ("server.preemptions", -1),
    ("server.prefix_hit_ratio", 1),
    ("cost.*", -1),
    ("energy.*", -1),
    ("gpu_time.*", -1),
)

# What `revati check` judges unless the case says otherwise; tails beyond p99 rest on too few requests.
GATED = tuple(
    f"{prefix}{name}"
    for prefix in ("", "class.*.")
    for name in (
        *(f"{group}_ms.{stat}" for group in ("ttft", "tpot", "itl", "e2e") for stat in ("mean", "p50", "p90", "p99")),
        "requests.ok",
        "requests.failed",
        "throughput.*",
        "goodput.ratio",
        "deadlines.miss_ratio",
    )
)


@dataclass(frozen=True)
class Tolerance:
    """The largest change that is none: relative to the old value, or absolute, whichever is more."""

    relative: float = 0.002
    absolute: float = 0.0005

    def covers(self, old: float, new: float) -> bool:
        return abs(new - old) <= max(self.relative * abs(old), self.absolute)


@dataclass(frozen=True)
class Change:
    """One metric in two results; a value is None where a result does not have the metric."""

    metric: str
    old: float | None
    new: float | None
    verdict: str  # "same", "worse", "better", "changed", "missing", "new"

    @property
    def relative(self) -> float | None:
        if self.old is None or self.new is None or self.old == 0:
            return None
        return self.new / self.old - 1.0

    def sentence(self) -> str:
        if self.old is None or self.new is None:
            return f"{self.metric}: {shown(self.old)} -> {shown(self.new)}"
        size = f" ({self.relative:+.2%})" if self.relative is not None else ""
        return f"{self.metric}: {shown(self.old)} -> {shown(self.new)}{size}"


def shown(value: float | None) -> str:
    """A number as people read it."""
    if value is None:
        return "none"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value)}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"


def direction(metric: str) -> int:
    return next((sign for pattern, sign in _DIRECTIONS if fnmatch.fnmatchcase(metric, pattern)), 0)


def gated(metric: str, extra: tuple[str, ...] = ()) -> bool:
    return any(fnmatch.fnmatchcase(metric, pattern) for pattern in (*GATED, *extra))


def changes(
    old: dict[str, float], new: dict[str, float], tolerances: dict[str, dict[str, float]] | None = None
) -> list[Change]:
    """Every metric of the two, judged with the tolerances (pattern: relative, absolute); the last match counts."""
    rows = []
    for metric in list(old) + [name for name in new if name not in old]:
        before, after = old.get(metric), new.get(metric)
        if before is None or after is None:
            rows.append(Change(metric, before, after, "new" if before is None else "missing"))
            continue
        tolerance = Tolerance()
        for pattern, limits in (tolerances or {}).items():
            if fnmatch.fnmatchcase(metric, pattern):
                tolerance = Tolerance(limits["relative"], limits["absolute"])
        verdict = "same"
        if not tolerance.covers(before, after):
            sign = direction(metric)
            verdict = "changed" if sign == 0 else ("better" if (after > before) == (sign > 0) else "worse")
        rows.append(Change(metric, before, after, verdict))
    return rows


def not_comparable(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Reasons why two identities answer different questions; empty if they can be compared."""
    rows = changed_keys(old, new)
    return [f"{key} differs: {_brief(before)} and {_brief(after)}" for key, before, after in rows]


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def setting_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Differences between two cases and their environments, as sentences."""
    skipped = ("name", "description", "preset", "tolerances", "limits", "cost")
    rows = []
    for key, before, after in changed_keys(old.get("case", {}), new.get("case", {})):
        if key.split(".")[0] in skipped or key == "server.port":
            continue
        if isinstance(before, list) and isinstance(after, list):
            rows.append(f"{key}: " + _list_change(before, after))
        else:
            rows.append(f"{key}: {_brief(before)} -> {_brief(after)}")
    versions = [item.get("environment", {}).get("framework_version") for item in (old, new)]
    if versions[0] != versions[1]:
        rows.append(f"framework version: {versions[0]} -> {versions[1]}")
    return rows


def _list_change(before: list[Any], after: list[Any]) -> str:
    """Server arguments by flag, so that `--x 8192` to `--x 512` reads as that."""
    old, new = _flags(before), _flags(after)
    parts = []
    for flag in [*old, *(flag for flag in new if flag not in old)]:
        if flag not in new:
            parts.append(f"without {flag} {old[flag]}".strip())
        elif flag not in old:
            parts.append(f"with {flag} {new[flag]}".strip())
        elif old[flag] != new[flag]:
            parts.append(f"{flag} {old[flag] or '(none)'} -> {new[flag] or '(none)'}")
    return ", ".join(parts) or "order changed"


def _flags(words: list[Any]) -> dict[str, str]:
    result: dict[str, str] = {}
    flag = ""
    for word in map(str, words):
        if word.startswith("--"):
            flag, sep, value = word.partition("=")
            result[flag] = value if sep else ""
        elif flag:
            result[flag] = f"{result[flag]} {word}".strip()
        else:
            result[word] = ""
    return result


def causes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Likely causes, the most direct first: settings, GPU time by operator, what the scheduler did."""
    rows = [f"setting {row}" for row in setting_changes(old, new)]
    rows.extend(_family_changes(old, new))
    before, after = old["metrics"], new["metrics"]
    for metric, words in (
        ("server.steps", "engine steps"),
        ("server.tokens_per_step", "tokens per engine step"),
        ("server.prefix_hit_ratio", "prefix-cache hit ratio"),
        ("server.preemptions", "preemptions"),
        ("server.kv_usage.max", "largest KV-cache use"),
        ("server.waiting.mean", "mean requests waiting"),
        ("queue_ms.mean", "mean queueing time (ms)"),
        ("gpu.busy_ratio", "share of time the GPU was busy"),
    ):
        if metric in before and metric in after and not Tolerance(0.01, 1e-3).covers(before[metric], after[metric]):
            rows.append(f"{words} {shown(before[metric])} -> {shown(after[metric])}")
    return rows


def _family_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before = old.get("statistics", {}).get("families", {})
    after = new.get("statistics", {}).get("families", {})
    deltas = []
    for family in sorted(set(before) | set(after)):
        times = [side.get(family, {}).get("time_ns", 0) for side in (before, after)]
        counts = [side.get(family, {}).get("launches", 0) for side in (before, after)]
        if not Tolerance(0.002, 1e3).covers(*times):
            deltas.append((abs(times[1] - times[0]), family, times, counts))
    rows = []
    for _, family, times, counts in sorted(deltas, reverse=True)[:5]:
        size = f" ({times[1] / times[0] - 1:+.1%})" if times[0] else ""
        launches = f", launches {counts[0]} -> {counts[1]}" if counts[0] != counts[1] else ""
        rows.append(f"GPU time in {family} {times[0] / 1e6:.1f} -> {times[1] / 1e6:.1f} ms{size}{launches}")
    return rows


MAIN_METRICS = (
    "duration_s",
    "requests.ok",
    "requests.failed",
    "ttft_ms.mean",
    "ttft_ms.p50",
    "ttft_ms.p99",
    "tpot_ms.mean",
    "tpot_ms.p50",
    "tpot_ms.p99",
    "itl_ms.p50",
    "itl_ms.p99",
    "itl_ms.max",
    "e2e_ms.mean",
    "e2e_ms.p99",
    "queue_ms.mean",
    "throughput.requests_per_s",
    "throughput.output_tokens_per_s",
    "goodput.ratio",
    "fluidity.index",
    "server.prefix_hit_ratio",
    "server.preemptions",
    "server.kv_usage.max",
    "server.steps",
    "gpu.busy_ratio",
    "cost.usd_per_million_output_tokens",
    "energy.joule_per_output_token",
)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def summary_metrics(results: list[dict[str, Any]]) -> list[str]:
    """Main metrics that any of the results has, with those of classes."""
    classes = [
        f"class.{name}.{m}" for name in _classes(results) for m in ("ttft_ms.p99", "tpot_ms.p99", "goodput.ratio")
    ]
    return [name for name in (*MAIN_METRICS, *classes) if any(name in result["metrics"] for result in results)]


def _classes(results: list[dict[str, Any]]) -> list[str]:
    names: dict[str, None] = {}
    for result in results:
        classes = result["case"]["workload"]["classes"]
        if len(classes) > 1:
            names.update(dict.fromkeys(classes))
    return list(names)


def text_report(results: list[dict[str, Any]], names: list[str]) -> str:
    """The comparison for a terminal: everything against the first result."""
    first = results[0]
    rows = []
    for metric in summary_metrics(results):
        row = [metric, shown(first["metrics"].get(metric))]
        for other in results[1:]:
            change = _one_change(metric, first, other)
            relative = f" {change.relative:+.1%}" if change.relative is not None and change.verdict != "same" else ""
            row.append(shown(change.new) + relative)
        rows.append(row)
    parts = [table(["metric", *names], rows)]
    for name, other in zip(names[1:], results[1:]):
        reasons = not_comparable(first["identity"], other["identity"])
        if reasons:
            parts.append(f"{name} is not strictly comparable with {names[0]}:\n" + _bullets(reasons))
        why = causes(first, other)
        parts.append(f"what changed from {names[0]} to {name}:\n" + _bullets(why or ["nothing that was recorded"]))
        worst = request_changes(first, other)
        if worst:
            parts.append("requests that changed most (TTFT, ms):\n" + _bullets(worst))
    return "\n\n".join(parts)


def request_changes(old: dict[str, Any], new: dict[str, Any], count: int = 5) -> list[str]:
    """The requests whose time to first token moved most."""
    before = {row["id"]: row for row in old.get("requests", []) if row["token_ns"]}
    rows = []
    for row in new.get("requests", []):
        if row["id"] in before and row["token_ns"]:
            ttft = [(item["token_ns"][0] - item["sent_ns"]) / 1e6 for item in (before[row["id"]], row)]
            rows.append((abs(ttft[1] - ttft[0]), row["id"], ttft))
    rows.sort(reverse=True)
    return [f"{name}: {shown(ttft[0])} -> {shown(ttft[1])}" for size, name, ttft in rows[:count] if size > 0]


def _bullets(rows: list[str]) -> str:
    return "\n".join(f"  - {row}" for row in rows)


def _one_change(metric: str, first: dict[str, Any], other: dict[str, Any]) -> Change:
    pair = [{metric: item["metrics"][metric]} if metric in item["metrics"] else {} for item in (first, other)]
    return next(iter(changes(*pair)), Change(metric, None, None, "same"))
