"""The gate: passes on equal numbers, fails on slower ones, and says why; resumes; machine-readable outputs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revati.experiments.compare import Tolerance, changes, direction, setting_changes
from tests.experiments.conftest import fake_data

Revati = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "revati-check"

MIX = {"workload": {"requests": 25, "classes": {"chat": {"prefix": {"tokens": 96}}}}}


@pytest.fixture
def gate(revati: Revati, case_file: Callable[..., Path], tmp_path: Path, emulation: None) -> Callable[..., Any]:
    """Runs `revati check` on one case, the baseline written at the first call."""
    path = case_file(MIX)
    baseline = tmp_path / "baseline.json"

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return revati(
            "check", str(path), "--baseline", str(baseline), "--work", str(tmp_path / "work"), *arguments, timeout=300
        )

    assert call("--update").returncode == 0
    return call


def test_ten_checks_of_the_same_case_pass_with_the_same_numbers(gate: Callable[..., Any], tmp_path: Path) -> None:
    seen = set()
    for _ in range(10):
        done = gate()
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "work" / "fake" / "result.json").read_text())
        seen.add(json.dumps([result["metrics"], result["requests"]], sort_keys=True))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("arguments", "metric", "cause"),
    [
        ("[--max-num-batched-tokens, 64]", "ttft_ms", "--max-num-batched-tokens 64"),
        ("[--no-prefix-caching]", "ttft_ms", "prefix-cache hit ratio"),
        ("[--step-ms, 6]", "tpot_ms", "--step-ms 6"),
        ("[--max-num-seqs, 1]", "ttft_ms", "queueing time"),
    ],
)
def test_a_slower_server_is_found_and_named(
    gate: Callable[..., Any], tmp_path: Path, arguments: str, metric: str, cause: str
) -> None:
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    done = gate("--set", f"server.args={arguments}", "--junit", str(junit), "--markdown", str(summary))
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(line.strip().startswith(metric) for line in done.stdout.splitlines())
    assert cause in done.stdout
    suite = ET.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    failure = suite.find("testcase/failure")
    assert failure is not None and metric in (failure.text or "")
    assert "| fake | **regression** |" in summary.read_text()


def test_another_seed_is_not_comparable_and_a_missing_case_is_unusable(
    gate: Callable[..., Any], revati: Revati, case_file: Callable[..., Path], tmp_path: Path
) -> None:
    done = gate("--set", "seed=5")
    assert done.returncode == 3
    assert "seed differs: 0 and 5" in done.stdout
    other = case_file(MIX | {"name": "other"}, "other.yaml")
    done = revati(
        "check", str(other), "--baseline", str(tmp_path / "baseline.json"), "--work", str(tmp_path / "w"), timeout=120
    )
    assert done.returncode == 2
    assert "add it with --update" in done.stdout


def test_a_case_that_no_longer_runs_is_a_regression(gate: Callable[..., Any]) -> None:
    done = gate("--set", "server.args=[--exit-at-once]")
    assert done.returncode == 1
    assert "fake server: no such model" in done.stdout


def test_update_shows_what_changed(gate: Callable[..., Any], tmp_path: Path) -> None:
    done = gate("--update", "--set", "server.args=[--step-ms, 6]")
    assert done.returncode == 0
    assert "tpot_ms.mean: " in done.stdout
    assert gate("--set", "server.args=[--step-ms, 6]").returncode == 0
    assert gate().returncode == 0, "faster than the baseline is no regression"


def test_tolerances_of_the_case_count(gate: Callable[..., Any]) -> None:
    loose = "tolerances={'*': {relative: 9}}"
    assert gate("--set", "server.args=[--step-ms, 6]", "--set", loose).returncode == 0


def test_unusable_input(revati: Revati, case_file: Callable[..., Path], tmp_path: Path) -> None:
    path = case_file()
    done = revati("check", str(path), "--baseline", str(tmp_path / "none.json"))
    assert (done.returncode, "no such baseline" in done.stderr) == (2, True)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert revati("check", str(path), "--baseline", str(broken)).returncode == 2
    broken.write_text('{"revati_baseline": 1, "cases": {"fake": {}}}')
    done = revati("check", str(path), "--baseline", str(broken))
    assert (done.returncode, "case 'fake' is damaged" in done.stderr) == (2, True)
    copy = tmp_path / "copy.yaml"
    copy.write_text(path.read_text())
    done = revati("check", str(path), str(copy), "--update", "--baseline", str(tmp_path / "b.json"))
    assert (done.returncode, "two cases are named 'fake'" in done.stderr) == (2, True)


@pytest.mark.usefixtures("emulation")
def test_parallel_cases_give_the_numbers_of_single_ones(revati: Revati, tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    folder.mkdir()
    for index in range(3):
        data = fake_data({"name": f"case{index}", "seed": index})
        (folder / f"{index}.yaml").write_text(json.dumps(data))
    single, parallel = tmp_path / "single.json", tmp_path / "parallel.json"
    for path, jobs in ((single, "1"), (parallel, "3")):
        done = revati(
            "check",
            str(folder),
            "--baseline",
            str(path),
            "--work",
            str(tmp_path / jobs),
            "--update",
            "--jobs",
            jobs,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
    values = [
        {name: entry["metrics"] for name, entry in json.loads(path.read_text())["cases"].items()}
        for path in (single, parallel)
    ]
    assert values[0] == values[1]
    assert sorted(values[0]) == ["case0", "case1", "case2"]


@pytest.mark.usefixtures("emulation")
def test_an_interrupted_check_goes_on_where_it_stopped(
    revati: Revati, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder, work, baseline = tmp_path / "cases", tmp_path / "work", tmp_path / "b.json"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.yaml").write_text(json.dumps(fake_data({"name": name})))
    arguments = ["check", str(folder), "--baseline", str(baseline), "--work", str(work), "--update", "--jobs", "1"]
    process = start(*arguments)
    limit = time.monotonic() + 120
    state = work / "check.json"
    while not (state.exists() and json.loads(state.read_text())["finished"]):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    before = (work / "a" / "result.json").stat().st_mtime_ns
    done = revati(*arguments, timeout=120)
    assert done.returncode == 0
    assert "a: finished before the interruption, not run again" in done.stderr
    assert (work / "a" / "result.json").stat().st_mtime_ns == before
    assert sorted(json.loads(baseline.read_text())["cases"]) == ["a", "b"]
    done = revati(*arguments[:-3], timeout=120)
    assert "not run again" not in done.stderr, "a finished check was not started anew"


@pytest.mark.usefixtures("emulation")
def test_bisect_names_the_first_bad_version(revati: Revati, case_file: Callable[..., Path], tmp_path: Path) -> None:
    import sys

    environments = []
    for index, step in enumerate([4, 4, 4, 6, 6]):
        script = tmp_path / f"v{index}"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@" --step-ms {step}\n')
        script.chmod(0o755)
        environments += ["--env", f"0.{index}={script}"]
    data = fake_data()
    command = ["{framework}", *data["server"]["command"][1:]]
    path = case_file({"server": {"command": command}})
    done = revati("bisect", str(path), *environments, "--work", str(tmp_path / "work"), timeout=240)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("0.3 is the first that regresses (after 0.2): ")
    assert "0.1:" not in done.stdout, "bisection looked at a version that it did not need"


@pytest.mark.usefixtures("emulation")
def test_the_github_action_as_a_script(case_file: Callable[..., Path], revati: Revati, tmp_path: Path) -> None:
    import sys

    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "revati").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m revati "$@"\n')
    (tools / "revati").chmod(0o755)
    path, baseline = case_file(), tmp_path / "b.json"
    assert (
        revati("check", str(path), "--baseline", str(baseline), "--work", str(tmp_path / "w0"), "--update").returncode
        == 0
    )

    def action(arguments: str) -> tuple[int, str, str]:
        output, summary = tmp_path / "output", tmp_path / "summary"
        output.write_text("")
        summary.write_text("")
        environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "REVATI_CASES": str(path),
            "REVATI_BASELINE": str(baseline),
            "REVATI_WORK": str(tmp_path / "w"),
            "REVATI_ARGUMENTS": arguments,
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
        }
        done = subprocess.run([str(ACTION / "check.sh")], env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode, output.read_text(), summary.read_text()

    code, output, summary = action("")
    assert (code, "verdict=pass\n" in output, "| fake | pass |" in summary) == (0, True, True)
    code, output, summary = action("--set server.args=[--step-ms,6]")
    assert (code, "verdict=regression\n" in output, "**regression**" in summary) == (1, True, True)


def test_the_action_file_names_what_the_script_reads() -> None:
    import yaml

    action = yaml.safe_load((ACTION / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    (step,) = action["runs"]["steps"]
    script = (ACTION / "check.sh").read_text()
    for name, value in step["env"].items():
        assert f"${{{name}" in script or f"${name}" in script
        assert value.removeprefix("${{ inputs.").removesuffix(" }}") in action["inputs"]


@pytest.mark.usefixtures("emulation")
def test_the_pytest_plugin(case_file: Callable[..., Path], revati: Revati, tmp_path: Path) -> None:
    import sys

    path, baseline = case_file(), tmp_path / "b.json"
    assert (
        revati("check", str(path), "--baseline", str(baseline), "--work", str(tmp_path / "w"), "--update").returncode
        == 0
    )
    (tmp_path / "test_it.py").write_text(
        f"""
def test_good(revati_case):
    result = revati_case({str(path)!r})
    assert result.metrics["requests.ok"] == 20
    result.check()

def test_bad(revati_case):
    revati_case({str(path)!r}, "server.args=[--step-ms, 6]").check()

def test_broken(revati_case):
    revati_case({str(path)!r}, "sed=1")
"""
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "revati.experiments.pytest_plugin",
        "-q",
        "--revati-baseline",
        str(baseline),
    ]
    done = subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "1 passed" in done.stdout and "2 failed" in done.stdout, done.stdout
    assert "tpot_ms.mean" in done.stdout and "--step-ms 6" in done.stdout
    assert "did you mean 'seed'" in done.stdout
    assert "Traceback" not in done.stdout


def test_directions_and_tolerances() -> None:
    assert (direction("ttft_ms.p99"), direction("goodput.ratio"), direction("server.steps")) == (-1, 1, 0)
    assert direction("gpu_time.attention_ms") == -1
    rows = changes(
        {"ttft_ms.p50": 10.0, "goodput.ratio": 0.9, "x": 1}, {"ttft_ms.p50": 9.0, "goodput.ratio": 0.8, "y": 1}
    )
    assert {row.metric: row.verdict for row in rows} == {
        "ttft_ms.p50": "better",
        "goodput.ratio": "worse",
        "x": "missing",
        "y": "new",
    }
    assert Tolerance(0.01, 0).covers(100, 101) and not Tolerance(0.01, 0).covers(100, 101.1)


def test_flag_changes_read_as_such() -> None:
    def result(arguments: list[str]) -> dict[str, Any]:
        return {"case": {"server": {"args": arguments}}, "environment": {}}

    old = result(["--max-num-batched-tokens", "8192", "--seed=1", "--enforce-eager"])
    new = result(["--max-num-batched-tokens", "512", "--seed=1", "--swap", "1"])
    assert setting_changes(old, new) == [
        "server.args: --max-num-batched-tokens 8192 -> 512, without --enforce-eager, with --swap 1"
    ]
