"""Results as one HTML file that needs nothing else: data, style and drawing code inside, no network.

Python prepares the numbers (reduced to what a chart can show), charts.js draws them as SVG.
"""

from __future__ import annotations

import html
import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Any

from revati import __version__
from revati.experiments.compare import causes, changes, not_comparable, request_changes, shown, summary_metrics
from revati.experiments.drivers.records import RequestRecord
from revati.experiments.metrics import request_latencies
from revati.experiments.report.step_charts import step_charts
from revati.experiments.stats import percentile

__all__ = ["chart_data", "render"]

_CDF_POINTS = 200
_GANTT_ROWS = 250
_SERIES_POINTS = 1500
_LATENCIES = {
    "ttft_ms": "Time to first token (ms)",
    "tpot_ms": "Time per output token (ms)",
    "itl_ms": "Gap between tokens (ms)",
    "e2e_ms": "Whole request (ms)",
}


def render(results: list[dict[str, Any]], names: list[str]) -> str:
    """The report as text. The first result is the base of the comparison."""
    data = json.dumps(chart_data(results, names), separators=(",", ":"))
    parts = {
        "title": html.escape(" · ".join(names)),
        "head": _head(results, names),
        "table": _table(results, names),
        "settings": _settings(results, names),
        # "</script>" inside a string would end the element.
        "data": data.replace("</", "<\\/"),
        "style": _file("style.css"),
        "script": _file("charts.js"),
        "version": html.escape(__version__),
    }
    page = _file("page.html")
    for key, text in parts.items():
        page = page.replace("{{" + key + "}}", text)
    return page


def _file(name: str) -> str:
    return (resources.files("revati.experiments.report") / name).read_text(encoding="utf-8")


def chart_data(results: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Everything that charts.js draws."""
    return {
        "names": names,
        "cdfs": [{"title": title, "series": _cdf_series(results, names, group)} for group, title in _LATENCIES.items()],
        "timelines": _timelines(results, names) + step_charts(results, names),
        "gantts": [_gantt(result, name) for result, name in zip(results, names) if result["requests"]],
        "operators": _operators(results, names),
        "coverage": _coverage(results, names),
    }


def _records(result: dict[str, Any]) -> list[RequestRecord]:
    return [RequestRecord(**row) for row in result["requests"]]


def _values(records: list[RequestRecord], group: str) -> list[float]:
    values: list[float] = []
    for record in records:
        if record.ok:
            if group == "itl_ms":
                values.extend((b - a) / 1e6 for a, b in zip(record.token_ns, record.token_ns[1:]))
            else:
                seen = request_latencies(record)
                values.extend([seen[group]] if group in seen else [])
    return values


def _cdf_series(results: list[dict[str, Any]], names: list[str], group: str) -> list[dict[str, Any]]:
    series = []
    for result, name in zip(results, names):
        records = _records(result)
        classes = list(result["case"]["workload"]["classes"])
        parts = [("", records)]
        if len(classes) > 1:
            parts = [(f" · {klass}", [record for record in records if record.klass == klass]) for klass in classes]
        for suffix, part in parts:
            ordered = sorted(_values(part, group))
            if ordered:
                points = [
                    [round(percentile(ordered, 100 * i / _CDF_POINTS), 4), i / _CDF_POINTS]
                    for i in range(_CDF_POINTS + 1)
                ]
                series.append({"name": name + suffix, "points": points})
    return series


def _timelines(results: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    charts = [{"title": "Requests in flight (client)", "step": True, "series": _in_flight(results, names)}]
    for key, title in (
        ("running", "Requests running (batch)"),
        ("waiting", "Requests waiting"),
        ("kv_usage", "KV cache used"),
    ):
        series = []
        for result, name in zip(results, names):
            points = [[sample["time_ns"] / 1e9, sample[key]] for sample in result["samples"] if key in sample]
            if points:
                series.append({"name": name, "points": _thin(points)})
        charts.append({"title": title, "step": True, "series": series, "share": key == "kv_usage"})
    for result, name in zip(results, names):
        busy = result["statistics"].get("timeline")
        if busy:
            charts.append(
                {"title": f"GPU use by operator · {name}", "stack": True, "share": True, "series": _gpu_series(busy)}
            )
    return [chart for chart in charts if chart["series"]]


def _in_flight(results: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    series = []
    for result, name in zip(results, names):
        marks = sorted(
            [(row["sent_ns"], 1) for row in result["requests"]] + [(row["end_ns"], -1) for row in result["requests"]]
        )
        count, points = 0, []
        for time_ns, delta in marks:
            count += delta
            points.append([time_ns / 1e9, count])
        if points:
            series.append({"name": name, "points": _thin(points)})
    return series


def _thin(points: list[list[float]]) -> list[list[float]]:
    """At most so many points; of each group the largest value stays, so that peaks are not lost."""
    size = -(-len(points) // _SERIES_POINTS)
    if size <= 1:
        return points
    return [max(points[i : i + size], key=lambda point: point[1]) for i in range(0, len(points), size)]


def _gpu_series(busy: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share of time in each operator family between two looks, all GPUs averaged."""
    families: dict[str, list[list[float]]] = {}
    names = sorted({name for look in busy for name in look["family_ns"]})
    for before, after in itertools.pairwise(busy):
        span = (after["time_ns"] - before["time_ns"]) * max(1, after["gpus"])
        if span <= 0:
            continue
        for name in names:
            grown = after["family_ns"].get(name, 0) - before["family_ns"].get(name, 0)
            families.setdefault(name, []).append([after["time_ns"] / 1e9, min(1.0, grown / span)])
    used = {name: points for name, points in families.items() if any(value > 0 for _, value in points)}
    return [{"name": name, "points": points[:: -(-len(points) // _SERIES_POINTS)]} for name, points in used.items()]


def _gantt(result: dict[str, Any], name: str) -> dict[str, Any]:
    rows = sorted(result["requests"], key=lambda row: (row["sent_ns"], row["id"]))
    shown_rows = rows[:_GANTT_ROWS]
    return {
        "name": name,
        "left_out": len(rows) - len(shown_rows),
        "rows": [
            {
                "id": row["id"],
                "planned": row["planned_ns"] / 1e9,
                "sent": row["sent_ns"] / 1e9,
                "first": row["token_ns"][0] / 1e9 if row["token_ns"] else None,
                "last": row["token_ns"][-1] / 1e9 if row["token_ns"] else None,
                "end": row["end_ns"] / 1e9,
                "tokens": [row["input_tokens"], row["output_tokens"]],
                "error": row["error"],
            }
            for row in shown_rows
        ],
    }


def _operators(results: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    families: dict[str, list[float]] = {}
    for index, result in enumerate(results):
        for family, value in result["statistics"].get("families", {}).items():
            families.setdefault(family, [0.0] * len(results))[index] = value["time_ns"] / 1e6
    ordered = sorted(families.items(), key=lambda item: -max(item[1]))
    return {"names": names, "rows": [{"name": family, "values": values} for family, values in ordered]}


def _coverage(results: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "parts": [{"name": source, "value": share} for source, share in result["statistics"]["coverage"].items()],
        }
        for result, name in zip(results, names)
        if result["statistics"].get("coverage")
    ]


def _head(results: list[dict[str, Any]], names: list[str]) -> str:
    items = []
    for result, name in zip(results, names):
        case, environment = result["case"], result["environment"]
        version = environment.get("framework_version") or ""
        device = case["device"]
        model = Path(case["model"]["path"] or "no model").name
        line = f"{case['framework']['name']} {version}, {device['count']} x {device['gpu']}, {model}"
        line += f", policy {result['identity']['policy']}, seed {case['seed']}, {environment.get('started_utc', '')}"
        about = f"{html.escape(case['description'] or '')}<br><small>{html.escape(line)}</small>"
        text = f"<p><b>{html.escape(name)}</b> {about}</p>"
        if not result["complete"]:
            text += f"<p class=warn>Partial result: {html.escape(result['outcome']['message'])}</p>"
        text += "".join(f"<p class=warn>{html.escape(note)}</p>" for note in result["notes"])
        items.append(text)
    return "\n".join(items)


def _table(results: list[dict[str, Any]], names: list[str]) -> str:
    first = results[0]
    rows = ["<tr><th>metric</th>" + "".join(f"<th>{html.escape(name)}</th>" for name in names) + "</tr>"]
    for metric in summary_metrics(results):
        base = first["metrics"].get(metric)
        interval = first.get("intervals", {}).get(metric)
        cells = [
            f"<td>{shown(base)}"
            + (f" <small>{shown(interval[0])} to {shown(interval[1])}</small>" if interval else "")
            + "</td>"
        ]
        for other in results[1:]:
            value = other["metrics"].get(metric)
            if base is None or value is None:
                cells.append(f"<td>{shown(value)}</td>")
                continue
            change = changes({metric: base}, {metric: value})[0]
            size = (
                f" <small>{change.relative:+.1%}</small>"
                if change.relative is not None and change.verdict != "same"
                else ""
            )
            cells.append(f"<td class={change.verdict}>{shown(value)}{size}</td>")
        rows.append(f"<tr><th>{metric}</th>{''.join(cells)}</tr>")
    return "<table>" + "\n".join(rows) + "</table>"


def _settings(results: list[dict[str, Any]], names: list[str]) -> str:
    first, parts = results[0], []
    for name, other in zip(names[1:], results[1:]):
        lists = (
            ("Not strictly comparable", not_comparable(first["identity"], other["identity"])),
            ("What changed", causes(first, other)),
            ("Requests whose TTFT changed most (ms)", request_changes(first, other)),
        )
        for title, rows in lists:
            if rows:
                items = "".join(f"<li>{html.escape(row)}</li>" for row in rows)
                parts.append(f"<h3>{title}: {html.escape(names[0])} to {html.escape(name)}</h3><ul>{items}</ul>")
    return "\n".join(parts)
