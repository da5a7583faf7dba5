"""The code that runs beside the card, as far as it runs without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from revati._errors import RevatiError, UsageError
from revati.calibration.cases import Batch, Run, load_case
from revati.calibration.compare import load_requests
from revati.calibration.measure import session, sweep
from revati.calibration.measure.client import bench_arguments, replay_file
from revati.calibration.measure.offline import engine_arguments
from revati.calibration.measure.replay import prompt_tokens
from revati.calibration.measure.serving import gpu_activity, main, run_replay, run_serve, startup_facts
from revati.calibration.rows import RowWriter, read_lines

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted((ROOT / "validation" / "cases").glob("*.yaml"))


def test_measuring_code_imports_without_any_third_party_package() -> None:
    """The measuring machine has torch and little else; a heavy import in the package would be found out only there."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import revati.calibration.measure.sweep, revati.calibration.measure.facts\n"
        "import revati.calibration.measure.session\n"
        "import revati.calibration.cells, revati.calibration.rows\n"
        "bad = {'numpy', 'torch', 'cffi', 'vllm', 'yaml', 'grpc'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", ["facts", "sweep", "serving", "session", "pack"])
def test_the_scripts_start_from_any_folder(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gpu" / program), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_committed_cases_are_valid_and_bracket_saturation(path: Path) -> None:
    case = load_case(path)
    assert case.name == path.stem
    if case.runs:
        rates = {r.name: r.rate for r in case.runs}
        assert rates["low"] < rates["near"] < rates["over"]
        assert case.serve_repeats >= 2


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: x\nmodel: m\ngpu: g\nserver: [1]\n", "list of strings"),
        ("name: x\nmodel: m\n", "lacks 'gpu'"),
        ("name: x\nmodel: m\ngpu: g\nserv: {}\n", "'serv'"),
        ("- a\n", "table"),
        ("a: [\n", "not YAML"),
        (
            "name: x\nmodel: m\ngpu: g\nserve: {input: 1, output: 1, spread: 0, runs: [{name: a, rate: 1}]}\n",
            "lacks 'prompts'",
        ),
    ],
)
def test_a_wrong_case_names_file_and_key(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=word) as problem:
        load_case(path)
    assert str(path) in str(problem.value)


def test_bench_arguments_say_what_the_run_says() -> None:
    run = {
        "name": "low",
        "file": "low-1",
        "rate": 4.0,
        "prompts": 80,
        "input": 1024,
        "output": 128,
        "spread": 0.5,
        "seed": 3,
    }
    line = " ".join(bench_arguments(run, "/m", 81, Path("/r")))
    for part in (
        "--request-rate=4.0",
        "--num-prompts=80",
        "--random-input-len=1024",
        "--seed 3",
        "--ignore-eos",
        "--save-detailed",
        "--port 81",
        "--result-filename low-1.json",
    ):
        assert part in line


def test_engine_arguments_become_keywords() -> None:
    given = [
        "--max-model-len",
        "16384",
        "--quantization",
        "fp8",
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--gpu-memory-utilization",
        "0.8",
    ]
    assert engine_arguments(given) == {
        "max_model_len": 16384,
        "quantization": "fp8",
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "gpu_memory_utilization": 0.8,
    }


def test_startup_facts_take_the_last_start() -> None:
    log = (
        "x GPU KV cache size: 900,000 tokens\nx GPU KV cache size: 934,128 tokens\n"
        "Model loading took 14.99 GiB and 2.1 seconds\n"
        "Graph capturing finished in 9 secs, took 0.67 GiB\nAvailable KV cache memory: 114.03 GiB\n"
    )
    assert startup_facts(log) == {
        "kv_tokens": 934128,
        "weights_gib": 14.99,
        "graphs_s": 9,
        "graphs_gib": 0.67,
        "kv_memory_gib": 114.03,
    }


def test_a_profile_event_becomes_a_row() -> None:
    event = {
        "ph": "X",
        "cat": "kernel",
        "name": "k<int>",
        "ts": 1.5,
        "dur": 2.25,
        "args": {"grid": [1, 2, 3], "block": [4, 1, 1], "stream": 7, "graph id": 9, "correlation": 5},
    }
    row = gpu_activity(event)
    assert (row["name"], row["us"], row["grid"], row["graph"], row["correlation"]) == ("k<int>", 2.25, [1, 2, 3], 9, 5)


def test_a_real_run_without_a_card_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert sweep.main(["--out", str(tmp_path), "--budget", "1"]) == 2
    assert "no GPU to measure" in capsys.readouterr().err


def test_a_dry_sweep_measures_marks_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    arguments = ["--out", str(tmp_path), "--dry-run", "--family", "gemm", "--tiers", "0", "--limit", "6"]
    assert sweep.main(arguments) == 0
    rows = [r for r in read_lines(tmp_path / "sweep.jsonl") if r["kind"] == "row"]
    assert len(rows) == 6 and all(r["dry"] and r["lat_us"] > 0 for r in rows)
    assert sweep.main(arguments) == 0
    assert len([r for r in read_lines(tmp_path / "sweep.jsonl") if r["kind"] == "row"]) == 6


def test_a_dry_serving_case_prints_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "--case",
                str(ROOT / "validation" / "cases" / "llama-3.1-8b-fp8.yaml"),
                "--out",
                str(tmp_path),
                "--dry-run",
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "--quantization fp8" in shown and shown.count("vllm bench serve") == 6
    assert main(["--case", str(tmp_path / "no.yaml"), "--out", str(tmp_path), "--dry-run"]) == 2


def test_a_scaled_down_case_keeps_its_shape() -> None:
    case = load_case(ROOT / "validation" / "cases" / "llama-3.1-8b-bf16.yaml").scaled_down()
    assert [r.name for r in case.runs] == ["low", "near", "over", "long"]
    assert case.runs[0] == Run("low", 4.0, 4, 64, 8, 0.5, 0)
    assert case.batches == (Batch(1, 64, 8), Batch(2, 64, 8))


# The session


def test_a_session_takes_steps_by_worth_time_and_means(tmp_path: Path) -> None:
    state = session.State(tmp_path / "state.json")
    order = [s.name for s in session.STEPS]
    assert session.plan_steps(state, 1000, False) == session.STEPS[0]
    for name in ("facts", "sweep-copies", "sweep-gemm"):
        state.done[name] = 1.0
    assert session.plan_steps(state, 1000, False) is None  # the rest needs vLLM
    found = session.plan_steps(state, 1000, True)
    assert found is not None and found.name == "sweep-0"
    state.done["sweep-0"] = 1.0
    short = session.plan_steps(state, 30, True)
    assert short is not None and short.name == "cupti-0"  # a server would not even start
    state.tries["serve:llama-3.1-8b-bf16"] = 3
    later = session.plan_steps(state, 1000, True)
    assert later is not None and order.index(later.name) > order.index("serve:llama-3.1-8b-bf16")
    state.save()
    assert session.State(tmp_path / "state.json").done == state.done


def test_results_are_packed_in_parts_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import random
    import tarfile

    monkeypatch.setattr(session, "_PART_BYTES", 10_000)
    work, out = tmp_path / "w", tmp_path / "out"
    one = session.Session(work, out, 10, True)
    noise = random.Random(1).randbytes(25_000)
    (work / "results" / "c").mkdir()
    (work / "results" / "c" / "x.bin").write_bytes(noise)
    one.pack_results()
    parts = sorted(out.glob("results.tar.xz.*"))
    assert len(parts) == 3 and all(p.stat().st_size <= 10_000 for p in parts)
    with tarfile.open(fileobj=io.BytesIO(b"".join(p.read_bytes() for p in parts))) as archive:
        member = archive.extractfile("results/c/x.bin")
        assert member is not None and member.read() == noise


def test_a_pack_arrives_in_parts_and_is_unpacked_when_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_ROOT", ROOT)  # sessions run from a checkout, this test from an installation
    site, out = tmp_path / "site", tmp_path / "pack"
    info = site / "vllm-1.dist-info"
    info.mkdir(parents=True)
    (site / "vllm").mkdir()
    body = bytes(range(256)) * 40
    (site / "vllm" / "__init__.py").write_bytes(b"#" + body.hex().encode())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 1\n")
    (info / "RECORD").write_text("vllm/__init__.py,,\nvllm-1.dist-info/METADATA,,\n")
    tool = [sys.executable, str(ROOT / "scripts" / "gpu" / "pack")]
    done = subprocess.run(
        [*tool, "--site", str(site), "--out", str(out), "--part-mb", "0.0003"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    folders = sorted(out.iterdir())
    assert len(folders) > 1
    one = session.Session(tmp_path / "w", None, 10, True)
    arriving = tmp_path / "arriving"
    for folder in folders:
        assert not (one.site / ".complete").exists()
        arriving.mkdir()
        folder.rename(arriving / folder.name)
        one.take_pack(arriving)
        subprocess.run(["rm", "-r", str(arriving)], check=True)
    assert (one.site / "vllm" / "__init__.py").read_bytes() == (site / "vllm" / "__init__.py").read_bytes()


# The step trace


class _Scheduler:
    def __init__(self) -> None:
        self.waiting: list[int] = [1]
        self.running: list[int] = [1, 2]

    def schedule(self, output: Any) -> Any:
        return output

    def update_from_output(self, output: Any, _: Any) -> str:
        return "done"


def _output(new: list[tuple[str, int, int]], cached: list[tuple[str, int, int]]) -> Any:
    tokens = {name: q for name, q, _ in [*new, *cached]}
    return SimpleNamespace(
        total_num_scheduled_tokens=sum(tokens.values()),
        num_scheduled_tokens=tokens,
        scheduled_new_reqs=[SimpleNamespace(req_id=n, num_computed_tokens=c) for n, _, c in new],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=[n for n, _, _ in cached], num_computed_tokens=[c for _, _, c in cached]
        ),
    )


def test_the_step_trace_writes_each_batch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm.v1.core.sched.scheduler")
    module.Scheduler = _Scheduler  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(str(ROOT / "revati" / "calibration" / "measure" / "plugin"))
    monkeypatch.setenv("REVATI_STEPTRACE", str(tmp_path))
    monkeypatch.setattr(_Scheduler, "schedule", _Scheduler.schedule)
    monkeypatch.setattr(_Scheduler, "update_from_output", _Scheduler.update_from_output)
    import revati_steptrace

    monkeypatch.setattr(revati_steptrace, "_registered", False)
    revati_steptrace.register()
    scheduler = _Scheduler()
    first, empty = _output([("a", 100, 16)], []), _output([], [])
    second = _output([("b", 50, 0)], [("a", 1, 116), ("c", 30, 512)])
    for batch in (first, empty, second):
        assert scheduler.schedule(batch) is batch
    for batch in (first, empty, second):
        assert scheduler.update_from_output(batch, None) == "done"
    files = list(tmp_path.glob("engine-*.jsonl"))
    assert len(files) == 1
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert [(r["i"], r["tokens"], r["prefill"], r["decode"]) for r in rows] == [
        (0, 100, [[100, 116]], []),
        (1, 81, [[50, 50], [30, 542]], [117]),
    ]
    assert all(r["t"] == sorted(r["t"]) for r in rows)


def test_an_error_that_may_pass_is_tried_again(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "x.jsonl", {})
    writer.error("k", "no vLLM", again=True)
    assert "k" in writer.done  # not twice in one run
    assert "k" not in RowWriter(tmp_path / "x.jsonl", {}).done


# A whole serving case against a stand-in for vLLM: what is started, in which order, and what is left behind.

_FAKE_SERVER = """
import http.server, json, os, sys
folder = os.environ["REVATI_STEPTRACE"]
print("GPU KV cache size: 1,600 tokens", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        with open(os.path.join(os.path.dirname(folder), "posts.txt"), "a") as file:
            file.write(self.path + "\\n")
        self.send_response(200); self.end_headers()
    def log_message(self, *args):
        pass
arguments = sys.argv
assert arguments[1] == "serve" and "--load-format" in arguments
if os.environ.get("FAKE_FAILS"):
    sys.exit(3)
http.server.ThreadingHTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Handler).serve_forever()
"""
_FAKE_BENCH = """
import json, os
def add_cli_args(parser):
    for name in ("backend", "host", "port", "endpoint", "model", "dataset-name", "random-input-len",
                 "random-output-len", "random-range-ratio", "num-prompts", "request-rate", "seed", "percentile-metrics",
                 "metric-percentiles", "result-dir", "result-filename", "dataset-path"):
        parser.add_argument("--" + name)
    for name in ("ignore-eos", "disable-tqdm", "save-result", "save-detailed"):
        parser.add_argument("--" + name, action="store_true")
def main(args):
    count = int(args.num_prompts)
    result = {"ttfts": [0.01] * count, "itls": [[0.005] * 3] * count, "output_lens": [4] * count, "duration": 1.0,
              "completed": count, "generated_texts": ["x"] * count, "errors": [""] * count, "rate": args.request_rate}
    with open(os.path.join(args.result_dir, args.result_filename), "w") as file:
        json.dump(result, file)
"""


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "fake"
    files = {
        "vllm/__init__.py": "",
        "vllm/entrypoints/__init__.py": "",
        "vllm/entrypoints/cli/__init__.py": "",
        "vllm/entrypoints/cli/main.py": _FAKE_SERVER,
        "vllm/benchmarks/__init__.py": "",
        "vllm/benchmarks/serve.py": _FAKE_BENCH,
        "vllm/utils/__init__.py": "",
        "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return root


def test_a_serving_case_runs_every_rate_twice_and_resumes(fake_vllm: Path, tmp_path: Path) -> None:
    case = load_case(ROOT / "validation" / "cases" / "llama-3.1-8b-fp8.yaml")
    assert run_serve(case, tmp_path / "out", tmp_path / "work", 120) == 0
    folder = tmp_path / "out" / case.name
    names = {p.stem for p in folder.glob("*-[0-9].json")}
    assert names == {f"{n}-{i}" for n in ("low", "near", "over") for i in (1, 2)}
    result = json.loads((folder / "near-2.json").read_text())
    assert "generated_texts" not in result and result["errors"] == 0 and result["rate"] == "28.0"
    assert result["revati"]["monotonic_ns"][1] >= result["revati"]["monotonic_ns"][0] > 0
    posts = (folder / "posts.txt").read_text().split()
    assert posts.count("/reset_prefix_cache") == 8  # six runs, the warm-up and the profiled run
    assert posts[-2:] == ["/start_profile", "/stop_profile"]
    assert json.loads((folder / "startup.json").read_text())["kv_tokens"] == 1600
    # Again: nothing to do, so no server is started. One result less: only that run.
    assert run_serve(case, tmp_path / "out", tmp_path / "work", 120) == 0
    assert (folder / "posts.txt").read_text().split() == posts
    (folder / "over-2.json").unlink()
    assert run_serve(case, tmp_path / "out", tmp_path / "work", 120) == 0
    assert (folder / "over-2.json").exists()
    assert len((folder / "posts.txt").read_text().split()) == len(posts) + 2


def test_a_server_that_ends_is_reported_with_its_log(
    fake_vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAILS", "1")
    case = load_case(ROOT / "validation" / "cases" / "qwen3-8b-bf16.yaml")
    with pytest.raises(RevatiError, match=r"ended with code 3; see .*server\.log"):
        run_serve(case, tmp_path / "out", tmp_path / "work", 60)


PUBLIC = sorted((ROOT / "validation" / "cases" / "public").glob("*.yaml"))


@pytest.mark.parametrize("path", PUBLIC, ids=lambda p: p.stem)
def test_public_runs_replay_what_was_published(path: Path, tmp_path: Path) -> None:
    case = load_case(path)
    table, count = replay_file(Path(case.runs[0].trace), tmp_path / "t.jsonl")
    rows = [json.loads(line) for line in Path(table).read_text().splitlines()]
    assert count == len(rows) == 300
    assert rows[0]["timestamp"] == 0 and rows[-1]["timestamp"] > 20
    assert all(len(r["hash_ids"]) == -(-r["input_length"] // 16) for r in rows)
    blocks = [b for r in rows for b in r["hash_ids"]]
    assert min(blocks) + 1 > 0 and len(set(blocks)) > 1000
    real = load_requests(Path(case.runs[0].trace))
    assert len(real.ttft_ms) == 300
    line = " ".join(
        bench_arguments({"trace": table, "prompts": count, "file": "all-1", "seed": 0, "spread": 0}, "/m", 1, tmp_path)
    )
    assert "--dataset-name=timed_trace" in line and "--request-rate" not in line


_FAKE_ENGINE = """
import asyncio, time, types
class _Metrics(types.SimpleNamespace):
    pass
class AsyncLLM:
    @classmethod
    def from_engine_args(cls, arguments):
        assert arguments.values["load_format"] == "dummy" and arguments.values["max_num_seqs"] > 0
        print("GPU KV cache size: 1,600 tokens", flush=True)
        return cls()
    async def reset_prefix_cache(self):
        pass
    async def generate(self, prompt, sampling, name):
        assert sampling.values["min_tokens"] == sampling.values["max_tokens"] and prompt["prompt_token_ids"]
        yield types.SimpleNamespace(metrics=_Metrics(queued_ts=10.0, scheduled_ts=10.001, first_token_ts=10.05,
                                                     last_token_ts=10.05 + 0.02 * (sampling.values["max_tokens"] - 1)))
    def shutdown(self):
        pass
"""


def test_traces_are_replayed_in_one_process(fake_vllm: Path, tmp_path: Path) -> None:
    keeps = "class {0}:\n    def __init__(self, **values):\n        self.values = values\n"
    (fake_vllm / "vllm/__init__.py").write_text("".join(keeps.format(n) for n in ("AsyncEngineArgs", "SamplingParams")))
    for name, text in (("v1/__init__.py", ""), ("v1/engine/__init__.py", ""), ("v1/engine/async_llm.py", _FAKE_ENGINE)):
        (fake_vllm / "vllm" / name).parent.mkdir(parents=True, exist_ok=True)
        (fake_vllm / "vllm" / name).write_text(text)
    table = tmp_path / "t.csv"
    table.write_text(
        "index,arrival_us,input_tokens,output_tokens,prefix_block_hashes16\n0,5000,40,11,7 8\n1,9000,20,1,7\n"
    )
    case_file = tmp_path / "c.yaml"
    case_file.write_text(
        f"name: c\nmodel: llama-3.1-8b\ngpu: h200-sxm\nserver: [--max-num-seqs, '8']\n"
        f"serve: {{repeats: 1, runs: [{{name: all, trace: {table}}}]}}\n"
    )
    case = load_case(case_file)
    assert run_replay(case, tmp_path / "out", tmp_path / "work", 120) == 0
    folder = tmp_path / "out" / "c"
    result = load_requests(folder / "all-1.csv")
    assert result.ttft_ms == [50.0, 50.0] and result.e2e_ms == pytest.approx([250.0, 50.0])
    assert result.tpot_ms[0] == pytest.approx(20.0)
    assert json.loads((folder / "startup.json").read_text())["kv_tokens"] == 1600
    (folder / "server.log").unlink()
    assert run_replay(case, tmp_path / "out", tmp_path / "work", 120) == 0
    assert not (folder / "server.log").exists()  # nothing left to do, so nothing was started


def test_shared_blocks_are_shared_tokens() -> None:
    rows = [{"input_tokens": "40", "prefix_block_hashes16": f"7 {second}"} for second in (8, 9)]
    first, second = (prompt_tokens(i, row, 128256) for i, row in enumerate(rows))
    assert len(first) == len(second) == 40 and first[:16] == second[:16]
    assert first[16:32] != second[16:32] and first[32:] != second[32:]
    assert min(first + second) >= 300 and max(first + second) < 127256


def test_a_replay_needs_traces(tmp_path: Path) -> None:
    case = load_case(ROOT / "validation" / "cases" / "qwen3-8b-bf16.yaml")
    with pytest.raises(UsageError, match="has runs without one"):
        run_replay(case, tmp_path / "out", tmp_path / "work", 10)
