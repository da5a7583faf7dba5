"""The measurements behind scripts/bench: costs of calls and jumps, speed of emulated vLLM at three loads."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from revati._awake import VARIABLE
from revati._hostcheck import preload_library, recorder_library
from revati._table import table
from revati_predictors import PredictorService, load_predictor
from revati_predictors.packs import load_pack
from revati_predictors.wire import KIND, OpRecord

ROOT = Path(__file__).resolve().parent.parent
THREADS = (20, 100, 300)
# Decode steps of 22 to 25 ms: as much of the GPU's time for the CPU's work as large models on several GPUs leave.
LONG_STEPS_GPU = "l40s"
# Label, GPU, requests per second of a Poisson process ("inf": all at once), requests.
LOADS = (
    ("idle-ish, 1 request/s", "h100-sxm", "1", 12),
    ("10 requests/s", "h100-sxm", "10", 60),
    ("saturated", "h100-sxm", "inf", 64),
    ("long steps, 1 request/s", LONG_STEPS_GPU, "1", 12),
)
BATCHES = (1, 8, 64)
REPEATS = 3


def python_module(name: str, *arguments: str) -> str:
    """What the installed module prints. Not in the source tree: there Python would find the sources first."""
    command = [sys.executable, "-m", name, *arguments]
    elsewhere = tempfile.gettempdir()
    return subprocess.run(command, cwd=elsewhere, stdout=subprocess.PIPE, text=True, check=True, timeout=3600).stdout


def revati(*arguments: str) -> str:
    return python_module("revati", *arguments)


def compile_c(source: Path, folder: Path, *flags: str) -> Path:
    target = folder / source.stem
    command = [
        "cc",
        "-O2",
        "-std=gnu11",
        f"-I{source.parent}",
        str(source),
        "-o",
        str(target),
        "-lpthread",
        "-lm",
        *flags,
    ]
    subprocess.run(command, check=True)
    return target


def calls(folder: Path) -> dict[str, float]:
    """ns per interposed call, the least of a few runs."""
    program = compile_c(ROOT / "csrc" / "tests" / "bench" / "calls.c", folder, str(preload_library()))
    runs = [json.loads(revati("run", "--quiet", "--", str(program))) for _ in range(REPEATS)]
    return {name: min(run[name] for run in runs) for name in runs[0]}


def recording(folder: Path) -> dict[str, dict[str, float]]:
    """ns per submission without and with the recorder, the least of a few runs.

    "cupti": with a CUPTI that does nothing, so what the recorder itself costs; "event": two events around each call.
    """
    program = compile_c(ROOT / "csrc" / "tests" / "bench" / "launches.c", folder, str(preload_library()))
    fake = folder / "libsilent_cupti.so"
    source = ROOT / "tests" / "recording" / "programs" / "fake_cupti.c"
    flags = ["-shared", "-fPIC", "-DSILENT", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["cc", "-O2", "-std=gnu11", *flags, str(source), "-o", str(fake)], check=True)
    result: dict[str, dict[str, float]] = {}
    for name in ("without", "event", "cupti"):
        runs = []
        for _ in range(REPEATS):
            prefix = [] if name == "without" else ["env", *recorder_variables(folder, name, fake)]
            runs.append(json.loads(revati("run", "--quiet", "--", *prefix, str(program))))
        result[name] = {call: min(run[call] for run in runs) for call in runs[0]}
    return result


def recorder_variables(folder: Path, method: str, cupti: Path) -> list[str]:
    """What `revati record` sets, without the Parquet at the end."""
    return [
        f"LD_PRELOAD={recorder_library()}:{preload_library()}",
        f"REVATI_RECORD={tempfile.mkdtemp(dir=folder)}",
        f"REVATI_RECORD_METHOD={method}",
        *([f"REVATI_CUPTI={cupti}"] if method == "cupti" else []),
    ]


def wakes(folder: Path) -> dict[str, float]:
    """us per wake-up of a sleeping process, without Revati: the floor under a jump."""
    program = compile_c(ROOT / "csrc" / "tests" / "bench" / "wake.c", folder)
    runs = [json.loads(subprocess.check_output([str(program)])) for _ in range(REPEATS)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def jumps(folder: Path, order: str) -> dict[int, float]:
    """us of wall time per jump by number of threads, from PHOLD: median of a few runs. With turns each jump has one."""
    program = compile_c(ROOT / "csrc" / "tests" / "stress" / "phold.c", folder)
    result = {}
    for threads in THREADS:
        times = []
        for _ in range(REPEATS):
            report = folder / "report.json"
            processes = "4" if threads < 300 else "8"
            arguments = ["--threads", str(threads), "--processes", processes, "--holds", "4000"]
            revati("run", "--quiet", "--order", order, "--report", str(report), "--", str(program), *arguments)
            clock = json.loads(report.read_text())["clock"]
            times.append(clock["real_ns"] / clock["jumps"] / 1000)
        result[threads] = statistics.median(times)
    return result


def demo(folder: Path, *options: str) -> dict[str, Any]:
    """The result of one run of the demo (128 output tokens); `folder` keeps the model from run to run."""
    target = folder / "result.json"
    python_module("revati._demo", "--work", str(folder), "--json", str(target), "--output-tokens", "128", *options)
    result: dict[str, Any] = json.loads(target.read_text())
    return result


def vllm_loads(folder: Path) -> list[dict[str, Any]]:
    """Virtual seconds per wall second of served vLLM (eager off), one server start per load."""
    rows = []
    for label, gpu, rate, requests in LOADS:
        result = demo(folder / "demo", "--gpu", gpu, "--requests", str(requests), "--rate", rate)
        rows.append(
            {
                "load": label,
                "gpu": gpu,
                **{name: result[name] for name in ("virtual_s", "wall_s", "speedup", "startup_s")},
                "tpot_ms": result["metrics"]["tpot_ms"]["p50"],
            }
        )
    return rows


LOAD_OF_PAIRS = ("--requests", "120", "--rate", "10")


def predictors(folder: Path) -> dict[str, float]:
    """The demo with packs in ratio to the roofline, and how much of either went by waiting for durations.

    Where kernels take less time there are more steps in the same virtual time, so wall time is compared by launch, too.
    """
    packs, roofline = (demo(folder / "demo", *LOAD_OF_PAIRS, "--predictor", kind) for kind in ("auto", "roofline"))
    ratio = packs["wall_s"] / roofline["wall_s"]
    by_launch = ratio * roofline["launches"] / packs["launches"]
    return {
        "packs_s": packs["wall_s"], "roofline_s": roofline["wall_s"], "ratio": ratio, "ratio_by_launch": by_launch,
        "packs_waiting_s": packs["predictor_wait_s"], "roofline_waiting_s": roofline["predictor_wait_s"],
    }  # fmt: skip


def awake(folder: Path) -> dict[str, float]:
    """The demo with CPUs kept awake between hand-overs (csrc/host/awake.c) in ratio to the demo without that."""
    wall_s = []
    for wanted in "10":
        os.environ[VARIABLE] = wanted
        wall_s.append(demo(folder / "demo", *LOAD_OF_PAIRS)["wall_s"])
    return {"awake_s": wall_s[0], "halted_s": wall_s[1], "ratio": wall_s[0] / wall_s[1]}


def medians(pair: Callable[[Path], dict[str, float]], folder: Path, pairs: int) -> str:
    """The medians of so many pairs of runs, each printed as it comes: only what ran in turn can be compared."""
    rows = []
    for _ in range(pairs):
        rows.append(pair(folder))
        print(", ".join(f"{name} {value:.2f}" for name, value in rows[-1].items()), file=sys.stderr, flush=True)
    return ", ".join(f"{name} {statistics.median(row[name] for row in rows):.2f}" for name in rows[0])


MODEL = {
    "framework": "vllm", "version": "0.25.1", "dtype": "bfloat16", "layers": 32, "hidden": 4096, "intermediate": 14336,
    "vocab": 128256, "heads_q": 32, "heads_kv": 8, "head_dim": 128, "tp": 1,
}  # fmt: skip
MISSES = 10_000


def predictor_s(folder: Path) -> dict[str, float]:
    """Seconds to load every section of a pack, and to answer 10,000 different questions that come in one request."""
    random.seed(0)
    pack = load_pack("h100-sxm")
    assert pack is not None
    began_s = time.perf_counter()
    for entry in pack.entries:
        pack.section(entry)
    result = {"loading the pack of h100-sxm": time.perf_counter() - began_s}
    pricer = PredictorService(load_predictor("h100-sxm"), folder / "predictor").pricer
    model = pricer.announce(MODEL)
    layers = ((6144, 4096), (4096, 4096), (28672, 4096))
    products = {(m, *nk): None for nk in layers for m in random.sample(range(1, 8193), 4000)}
    batches = {(random.randint(1, 16), random.randint(16, 32768)): None for _ in range(2 * MISSES)}
    kernel = {"kind": KIND["KERNEL"], "name": "flash::FlashAttnFwdSm90<x>", "p": (132, 1, 1, 256, 1, 1, 0, -1)}
    questions = {
        "matrix products": [OpRecord(KIND["GEMM"], dtype=3, model=model, p=(*mnk, 1)) for mnk in products],
        "decodes of attention (1 to 16 sequences)": [
            OpRecord(**kernel, model=model, seqs=((1, keys),) * sequences) for sequences, keys in batches
        ],
    }
    for name, records in questions.items():
        pricer.price(records[-1:])
        began_s = time.perf_counter()
        pricer.price(records[:MISSES])
        result[f"{MISSES:,} {name}"] = time.perf_counter() - began_s
    return result


def in_process(folder: Path) -> list[dict[str, float]]:
    """Speed of decode steps of vLLM's engine without a server, per batch size; policy free."""
    model = folder / "model"
    revati("models", "write", "llama-3.1-8b", str(model))
    script = str(ROOT / "scripts" / "bench_in_process.py")
    command = [sys.executable, "-m", "revati", "run", "--quiet", "--gpu", LONG_STEPS_GPU, "--policy", "free", "--"]
    command += [sys.executable, script, str(model), *map(str, BATCHES)]
    rows = []
    began_s = 0.0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        for line in run.stdout or ():
            word, *values = line.split() or [""]
            if word == "begin":
                began_s = time.monotonic()
            elif word == "end":
                batch, virtual_s = int(values[0]), float(values[1])
                wall_s = time.monotonic() - began_s
                rows.append({"batch": batch, "virtual_s": virtual_s, "wall_s": wall_s, "speedup": virtual_s / wall_s})
    if run.returncode:
        raise RuntimeError(f"vLLM in one process ended with {run.returncode}")
    return rows[1::2]  # each batch warms up first


def machine() -> str:
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = re.sub(r"\s+", " ", model.group(1)) if model else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = re.match(r"\d+\.\d+", platform.release())
    load = os.getloadavg()[0]
    return (
        f"{name}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Linux {kernel.group(0) if kernel else '?'}, "
        f"Python {platform.python_version()}; load average {load:.1f} before the measurement"
    )


def text(result: dict[str, Any]) -> str:
    blocks = [f"Measured on {result['date']}: {result['machine']}.", "", "## Cost per interposed call"]
    blocks += [
        "",
        "```",
        table(["call", "ns"], [[n, f"{v:.1f}"] for n, v in result["calls_ns"].items()], right=(1,)),
        "```",
    ]
    blocks += ["", "## Predictor", "", "```"]
    blocks += [table(["what", "s"], [[n, f"{v:.2f}"] for n, v in result["predictor_s"].items()], right=(1,)), "```"]
    blocks += ["", "## Recorder: CPU time per submission, ns (ratio to the call without it)", "", "```"]
    without = result["recorder_ns"]["without"]
    rows = []
    for call, ns in without.items():
        recorded = [result["recorder_ns"][method][call] for method in ("cupti", "event")]
        rows.append([call, f"{ns:.0f}", *(f"{r:.0f} ({r / ns:.2f})" for r in recorded)])
    blocks += [table(["call", "without", "recorder, CUPTI free", "recorder, events"], rows, right=(1, 2, 3)), "```"]
    blocks += [
        "",
        "## Wall time per jump of the clock, us (PHOLD: every hold is one jump, with turns and one turn)",
        "",
    ]
    fired, turns = result["jump_us"]["fired"], result["jump_us"]["turns"]
    blocks += [
        "```",
        table(
            ["threads", "jump", "jump and turn"],
            [[f"{n}", f"{fired[n]:.1f}", f"{turns[n]:.1f}"] for n in fired],
            right=(0, 1, 2),
        ),
        "```",
        "",
        "A jump has two wake-ups (coordinator, sleeper), PHOLD's token a third, a turn two more. One takes here,",
        "without Revati, " + ", ".join(f"{us:.1f} us on {where}" for where, us in result["wake_us"].items()) + ".",
    ]
    if result["vllm"]:
        rows = [
            [
                r["load"],
                r["gpu"],
                f"{r['virtual_s']:.2f}",
                f"{r['wall_s']:.2f}",
                f"{r['speedup']:.2f}",
                f"{r['tpot_ms']:.2f}",
            ]
            for r in result["vllm"]
        ]
        blocks += ["", "## Served vLLM, Llama-3.1-8B, default mode, policy modelled, 128 output tokens", "", "```"]
        blocks += [table(["load", "GPU", "virtual s", "wall s", "speed", "TPOT ms"], rows, right=(2, 3, 4, 5)), "```"]
        rows = [
            [str(r["batch"]), f"{r['virtual_s']:.2f}", f"{r['wall_s']:.2f}", f"{r['speedup']:.2f}"]
            for r in result["in_process"]
        ]
        blocks += [
            "",
            f"## vLLM's engine in one process, 400 decode steps on one {LONG_STEPS_GPU}, policy free",
            "",
            "```",
        ]
        blocks += [table(["batch", "virtual s", "wall s", "speed"], rows, right=(0, 1, 2, 3)), "```"]
        start = result["vllm"][0]["startup_s"]
        blocks += ["", "## Start-up, wall seconds by phase (warm caches)", "", "```"]
        blocks += [table(["phase", "s"], [[n, f"{v:.1f}"] for n, v in start.items()], right=(1,)), "```"]
    return "\n".join(blocks)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--no-vllm", action="store_true", help="only calls and jumps")
    pairs = parser.add_mutually_exclusive_group()
    for name, what in (
        ("--predictors", "only the demo with model packs beside the roofline, in turn"),
        ("--awake", "only the demo with CPUs kept awake beside the one without, in turn"),
    ):
        pairs.add_argument(name, type=int, choices=range(1, 100), metavar="PAIRS", help=what)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="revati-bench-") as name:
        folder = Path(name)
        for pair, count in ((predictors, arguments.predictors), (awake, arguments.awake)):
            if count is not None:
                print("medians:", medians(pair, folder, count))
                return 0
        result: dict[str, Any] = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "machine": machine()}
        result["calls_ns"] = calls(folder)
        result["predictor_s"] = predictor_s(folder)
        result["recorder_ns"] = recording(folder)
        result["wake_us"] = wakes(folder)
        result["jump_us"] = {order: jumps(folder, order) for order in ("fired", "turns")}
        result["vllm"] = [] if arguments.no_vllm else vllm_loads(folder)
        result["in_process"] = [] if arguments.no_vllm else in_process(folder)
    print(text(result))
    if arguments.write:
        title = "# Benchmarks\n\nWritten by `scripts/bench --write`.\n\n"
        (ROOT / "docs" / "benchmarks.md").write_text(title + text(result) + "\n", encoding="utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
