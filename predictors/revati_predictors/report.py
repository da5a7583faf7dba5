"""The report of a training run: one HTML file with tables and plots, nothing to install and nothing to fetch."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors import stack
from revati_predictors.learned import Section
from revati_predictors.packs import Pack

__all__ = ["errors_markdown", "write_report"]

_MODES = {
    "random": "shapes at random",
    "region": "unseen region",
    "model": "unseen MoE model",
    "beyond": "beyond the box",
    "size": "between nodes",
    "physics": "features only",
}
_BUCKETS = (0, 10, 20, 50, 100, 300, 1000, 10000, float("inf"))
_STYLE = """body{font:14px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.6rem 0 1.4rem}
td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}svg{margin:0 1rem 1rem 0}h2{margin-top:2.2rem}"""


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _bars(title: str, labels: Sequence[str], values: Sequence[float], lines: Sequence[float] = ()) -> str:
    """Horizontal bars as SVG; `lines` are reference values."""
    if not labels:
        return ""
    height, left, width = 18, 210, 300
    most = max([*values, *lines, 1e-9]) * 1.12
    parts = [f'<text x="0" y="13" font-weight="bold">{html.escape(title)}</text>']
    for i, (label, value) in enumerate(zip(labels, values)):
        y = 24 + i * height
        long = width * value / most
        parts.append(
            f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{html.escape(label)}</text>'
            f'<rect x="{left}" y="{y + 2}" width="{long:.1f}" height="{height - 6}" fill="#4a7ebb"/>'
            f'<text x="{left + long + 4:.1f}" y="{y + 12}">{value:.3g} %</text>'
        )
    bottom = 24 + len(labels) * height
    for value in lines:
        x = left + width * value / most
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="{bottom}" stroke="#b33" stroke-dasharray="4 3"/>')
    return f'<svg width="{left + width + 90}" height="{bottom + 6}" font-size="12">{"".join(parts)}</svg>'


def _by_size(rows: dict[str, NDArray[Any]]) -> list[list[Any]]:
    """Median and mean error of held-out rows by duration."""
    out = []
    for low, high in pairwise(_BUCKETS):
        cells: list[Any] = [f"{low:g} .. {high:g} us"]
        for mode in ("random", "region", "model"):
            if f"{mode}_us" not in rows:
                continue
            us, error = rows[f"{mode}_us"], rows[f"{mode}_error"]
            chosen = 100 * np.abs(np.expm1(-error[(us >= low) & (us < high)]))
            cells.append(f"{np.median(chosen):.2f} / {chosen.mean():.2f} ({len(chosen)})" if len(chosen) > 4 else "-")
        if any(c != "-" for c in cells[1:]):
            out.append(cells)
    return out


def noise_floor(section: Section) -> float | None:
    """Percent: median deviation of a measured node from the mean of its neighbours where the three hardly differ."""
    grid = section.grid
    if grid is None or section.flags is None:
        return None
    found = []
    for a in range(grid.y.ndim - 1):
        if grid.y.shape[a + 1] < 3:
            continue
        y, ok = np.moveaxis(grid.y, a + 1, 0), np.moveaxis(section.flags == 0, a + 1, 0)
        flat = ok[:-2] & ok[1:-1] & ok[2:] & (np.abs(y[2:] - y[:-2]) < 0.04)
        found.append(np.abs(y[1:-1] - (y[2:] + y[:-2]) / 2)[flat])
    values = np.concatenate(found) if found else np.zeros(0)
    # The mean of two neighbours adds half of their variance.
    return float(100 * np.median(values) / np.sqrt(1.5)) if len(values) > 30 else None


def _importance(section: Section, mode: str) -> tuple[list[str], list[float]]:
    """Share of splits by feature of a shipped median model."""
    grid, family = section.grid, section.family
    if mode not in section.models or grid is None or not grid.configs:
        return [], []
    columns: dict[str, NDArray[Any]] = {}
    for i, name in enumerate(family.config):
        columns[name] = np.array([grid.configs[0][i]], dtype=object if name in family.text else float)
    for axis, name in zip(grid.axes, family.axes):
        columns[name] = axis[:1]
    for name in family.extra:
        columns.setdefault(name, np.ones(1))
    if mode == "size":
        names = list(stack.size_features(family, section.gpu, grid, columns)[0])
    elif mode == "config":
        names = list(stack.config_features(family, section.gpu, grid, stack.Slots(family, grid), columns)[0])
    else:
        names = list(stack.apart_features(family, section.gpu, columns, section.facts.get("law"))[0])
    counts = np.zeros(len(names))
    for line in section.models[mode][0].text.split("\n"):
        if line.startswith("split_feature="):
            for value in line[14:].split():
                counts[int(value)] += 1
    order = np.argsort(-counts)[:10]
    return [names[i] for i in order], [100 * float(counts[i] / max(1, counts.sum())) for i in order]


def _summary_rows(packs: Sequence[Pack]) -> list[list[Any]]:
    out = []
    for pack in packs:
        for entry in pack.entries:
            held = entry.raw["held_out"]
            cells: list[Any] = [f"{pack.gpu.key} {entry.variant} {entry.framework} {entry.version}", entry.rows]
            for mode in ("random", "region", "model", "size", "beyond"):
                e = held.get(mode) or {}
                cells.append(f"{e['median']:.2f} / {e['mean']:.2f}" if e else "-")
            cover = (held.get("random") or {}).get("coverage")
            region = (held.get("region") or held.get("model") or {}).get("coverage")
            floor = noise_floor(pack.section(entry))
            cells += [f"{100 * v:.1f}" if v is not None else "-" for v in (cover, region)]
            cells.append("-" if floor is None else f"{floor:.2f}")
            out.append(cells)
    return out


def _family_means(packs: Sequence[Pack], mode: str) -> tuple[list[str], list[float]]:
    sums: dict[str, list[tuple[float, int]]] = {}
    for pack in packs:
        for entry in pack.entries:
            e = entry.raw["held_out"].get(mode)
            if e:
                sums.setdefault(entry.variant, []).append((e["median"], e["rows"]))
    names = sorted(sums)
    return names, [sum(m * n for m, n in sums[k]) / sum(n for _, n in sums[k]) for k in names]


def _coverages(packs: Sequence[Pack], mode: str) -> tuple[list[str], list[float]]:
    sums: dict[str, list[tuple[float, int]]] = {}
    for pack in packs:
        for entry in pack.entries:
            e = entry.raw["held_out"].get(mode) or {}
            if e.get("coverage") is not None:
                sums.setdefault(entry.variant, []).append((e["coverage"], e["rows"]))
    names = sorted(sums)
    return names, [100 * sum(m * n for m, n in sums[k]) / sum(n for _, n in sums[k]) for k in names]


def write_report(path: Path, packs: Sequence[Pack], rows: Path, took: str) -> None:
    """Write the report. rows: directory of <gpu>.<section>.npz with held-out errors. took: how long training took."""
    modes = ("random", "region", "model", "size", "beyond")
    head = ["section", "rows", *(_MODES[m] for m in modes), "in 80 % interval", "same, region", "noise floor %"]
    size_kb = sum(e.raw["bytes"] for p in packs for e in p.entries) // 1024
    parts = [
        "<!doctype html><meta charset='utf-8'><title>Model packs</title><style>",
        _STYLE,
        "</style>",
        "<h1>Model packs: held-out errors</h1>",
        f"<p>{sum(len(p.entries) for p in packs)} sections, {size_kb} KB, trained in {took}. "
        "Errors are median / mean absolute error in percent of what was measured, on rows that the judged models did "
        "not see: 10 % of the shapes (all data types and routings of a shape together) and 10 % of the regions "
        "(heads, (n, k), splits; MoE models: a quarter of them four times), in four or eight rounds where a table has "
        "fewer than 14,000 rows. "
        "Rows held out are in the shipped sections as measured nodes; small sections are trained on all rows. "
        "Beyond the box: the last axis cut two octaves short and continued. Between nodes: the row's own planes "
        "hidden. "
        "Noise floor: deviation of a measured row from the mean of two neighbours that hardly differ.</p>",
        _table(head, _summary_rows(packs)),
        "<h2>By family</h2>",
    ]
    for mode in ("random", "region"):
        parts.append(_bars(f"median error, {_MODES[mode]}", *_family_means(packs, mode)))
    for mode in ("random", "region"):
        parts.append(_bars(f"rows inside the 80 % interval, {_MODES[mode]}", *_coverages(packs, mode), lines=(75, 88)))
    for pack in packs:
        for entry in pack.entries:
            file = rows / f"{pack.gpu.key}.{entry.file}.npz"
            if not file.is_file():
                continue
            with np.load(file) as stored:
                held = {name: stored[name] for name in stored.files}
            title = f"{pack.gpu.key}: {entry.variant} {entry.framework} {entry.version}"
            parts.append(f"<h2>{html.escape(title)}</h2>")
            shown = [m for m in ("random", "region", "model") if f"{m}_us" in held]
            parts.append(_table(["duration", *(f"{_MODES[m]} (rows)" for m in shown)], _by_size(held)))
            section = pack.section(entry)
            for mode in ("size", "config", "physics"):
                parts.append(_bars(f"splits by feature, {mode} model", *_importance(section, mode)))
    path.write_text("\n".join(parts))


def _cell(held: dict[str, Any], mode: str) -> str:
    e = held.get(mode)
    return f"{e['median']:.1f} / {e['mean']:.1f}" if e else "-"


def _inside(held: dict[str, Any], mode: str) -> str:
    cover = (held.get(mode) or {}).get("coverage")
    return "-" if cover is None else f"{100 * cover:.0f}"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def errors_markdown(packs: Sequence[Pack]) -> str:
    """Held-out errors of the installed packs as Markdown: by family, then by section."""
    modes = ("random", "region", "model", "physics", "size", "beyond")
    names = ["table", *(_MODES[m] for m in modes), "inside, shapes", "inside, regions"]
    families: dict[str, dict[str, list[tuple[float, float, float, int]]]] = {}
    sections = []
    for pack in packs:
        for entry in pack.entries:
            held = entry.raw["held_out"]
            for mode in modes:
                if held.get(mode):
                    e = held[mode]
                    figures = (e["median"], e["mean"], e.get("coverage") or 0.0, e["rows"])
                    families.setdefault(entry.variant, {}).setdefault(mode, []).append(figures)
            region = next((m for m in ("region", "model") if m in held), "region")
            floor = noise_floor(pack.section(entry))
            sections.append(
                [
                    f"{pack.gpu.key} {entry.variant} {entry.framework} {entry.version}".strip(),
                    *(_cell(held, m) for m in modes),
                    _inside(held, "random"),
                    _inside(held, region),
                    "-" if floor is None else f"{floor:.1f}",
                ]
            )
    pooled = []
    for name, by_mode in sorted(families.items()):
        held = {}
        for mode, parts in by_mode.items():
            rows = sum(p[3] for p in parts)
            median, mean, cover = (sum(p[i] * p[3] for p in parts) / rows for i in range(3))
            held[mode] = {"median": median, "mean": mean, "coverage": cover if mode != "beyond" else None}
        region = next((m for m in ("region", "model") if m in held), "region")
        pooled.append([name, *(_cell(held, m) for m in modes), _inside(held, "random"), _inside(held, region)])
    return "\n".join(
        [
            "Median / mean absolute error, in percent of what was measured, of rows that the judged models did not",
            "see, and the share of them (percent) inside the 80 % interval. Families: the mean of their sections,",
            "weighted by rows.",
            "",
            *_markdown(names, pooled),
            "",
            *_markdown([*names, "noise floor"], sections),
        ]
    )
