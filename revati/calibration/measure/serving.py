"""Real (or emulated) vLLM runs of a validation case: `vllm serve` + `vllm bench serve` at each rate, and offline
batches.

Everything lands in OUT/<case>/: server.log, one result file per run, the step trace, kernels of profiled steps, the
start-up facts. Runs that have a result are not repeated, so a cut case goes on where it stopped. The same code
makes both sides of a comparison:

    scripts/gpu/serving --case validation/cases/X.yaml --out real
    revati run --gpu h200-sxm -- scripts/gpu/serving --case validation/cases/X.yaml --out emulated --no-profile

`--in-process` replays the traces of a case through vLLM's asynchronous engine without a server (replay.py): for runs
that were published with latencies taken inside the engine.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from revati._errors import RevatiError, UsageError
from revati.calibration.cases import Case, Run, load_case
from revati.calibration.measure.conditions import open_nvml, session_facts, version_of
from revati.models import write_model

__all__ = ["main", "run_offline", "run_replay", "run_serve", "startup_facts"]

_START_LIMIT_S = 420.0
_ROOT = Path(__file__).resolve().parents[3]


def _environment(folder: Path, work: Path) -> dict[str, str]:
    """The servers' environment: the step-trace plugin on the path, caches kept beside the work for the next start."""
    plugin = work / "plugin"
    info = plugin / "revati_steptrace-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("plugin") / "revati_steptrace.py"
    (plugin / source.name).write_text(source.read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: revati-steptrace\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nrevati_steptrace = revati_steptrace:register\n")
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(plugin), env.get("PYTHONPATH", ""), str(_ROOT)) if p)
    env["REVATI_STEPTRACE"] = str(folder / "steps")
    env.update(
        {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    )
    if (
        "REVATI_PAGE" not in env
    ):  # under emulation the user's warm caches spare minutes, and no time is measured from them
        for name, place in (
            ("VLLM_CACHE_ROOT", "vllm"),
            ("TRITON_CACHE_DIR", "triton"),
            ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
            ("FLASHINFER_WORKSPACE_BASE", "flashinfer"),
        ):
            env.setdefault(name, str(work / "cache" / place))
    return env


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _server(
    case: Case, model: Path, folder: Path, env: dict[str, str], profile: bool, deadline: float
) -> Iterator[int]:
    """A ready `vllm serve`; yields its port and stops it afterwards. Raises RevatiError if it ends or is not ready
    in time.
    """
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        str(model),
        "--load-format",
        "dummy",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *case.server,
    ]
    if profile:
        command += [
            "--profiler-config",
            json.dumps(
                {
                    "profiler": "torch",
                    "torch_profiler_dir": str((folder / "profile").resolve()),
                    "torch_profiler_with_stack": False,
                    "ignore_frontend": True,
                    "torch_profiler_dump_cuda_time_total": False,
                }
            ),
        ]
    with (folder / "server.log").open("a", encoding="utf-8") as log:
        log.write(f"# {' '.join(command)}\n")
        log.flush()
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)
        try:
            while not _healthy(port):
                if process.poll() is not None:
                    raise RevatiError(
                        f"the server of {case.name} ended with code {process.returncode}; see {folder}/server.log"
                    )
                if time.monotonic() > min(deadline, start + _START_LIMIT_S):
                    raise RevatiError(f"the server of {case.name} was not ready in time; see {folder}/server.log")
                time.sleep(0.25)
            (folder / "startup.json").write_text(
                json.dumps(
                    {
                        "ready_s": time.monotonic() - start,
                        **startup_facts((folder / "server.log").read_text(errors="replace")),
                    }
                )
            )
            yield port
        finally:
            _stop(process)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _stop(process: subprocess.Popen[Any]) -> None:
    """Ends the server and whatever it started: it leads a session of its own."""
    for number, patience in ((signal.SIGINT, 20.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


_FACTS = {
    "kv_tokens": r"GPU KV cache size: ([\d,]+) tokens",
    "kv_memory_gib": r"Available KV cache memory: ([\d.]+) GiB",
    "weights_gib": r"Model loading took ([\d.]+) GiB",
    "concurrency": r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x",
    "graphs_s": r"Graph capturing finished in ([\d.]+) secs",
    "graphs_gib": r"Graph capturing finished in [\d.]+ secs, took (-?[\d.]+) GiB",
    "compile_s": r"torch\.compile (?:takes|took) ([\d.]+) s",
    "init_s": r"init engine .*took ([\d.]+) s",
}


def startup_facts(log: str) -> dict[str, float]:
    """Numbers that vLLM prints while it starts (the last start in the log): KV tokens, memory, compile and capture
    times.
    """
    facts = {}
    for name, pattern in _FACTS.items():
        found = re.findall(pattern, log)
        if found:
            facts[name] = float(found[-1].replace(",", ""))
    return facts


def _specs(case: Case, folder: Path, profile: bool) -> list[dict[str, Any]]:
    """The runs that have no result yet: the first repeat of every rate before the second of any."""
    wanted: list[tuple[Run, str, bool]] = [
        (run, f"{run.name}-{repeat + 1}", False) for repeat in range(case.serve_repeats) for run in case.runs
    ]
    if profile and case.runs:
        base = case.runs[0]
        wanted += [(Run("profile", float("inf"), 24, base.input or 512, 24, 0.0, 7), "profile", True)]
    return [
        {**asdict(run), "file": file, "profile": is_profile}
        for run, file, is_profile in wanted
        if not (folder / f"{file}.json").exists() and not (folder / f"{file}.csv").exists()
    ]


def run_serve(case: Case, out: Path, work: Path, budget_s: float, *, profile: bool = True) -> int:
    """All serving runs of a case that have no result yet. Returns how many are left when the budget ends.

    Raises RevatiError if the server does not come up or the client fails.
    """
    folder = out / case.name
    folder.mkdir(parents=True, exist_ok=True)
    specs = _specs(case, folder, profile)
    if not specs:
        return 0
    deadline = time.monotonic() + budget_s
    model = work / "models" / case.model
    write_model(case.model, model)
    env = _environment(folder, work)
    (folder / "session.json").write_text(json.dumps({**session_facts(open_nvml(dry=True)), "case": case.name}))
    with _server(case, model, folder, env, profile, deadline) as port:
        warm = {**asdict(Run("warmup", float("inf"), 4, specs[0]["input"] or 512, 8, 0.0, 99)), "file": "warmup"}
        spec = folder / "client.json"
        spec.write_text(json.dumps({"model": str(model), "port": port, "folder": str(folder), "runs": [warm, *specs]}))
        command = [sys.executable, "-m", "revati.calibration.measure.client", str(spec)]
        with (folder / "client.log").open("a", encoding="utf-8") as log, _state_log(folder / "state.csv"):
            client = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
            try:
                code = client.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                client.terminate()
                client.wait()
                code = 0
        if code:
            raise RevatiError(f"the client of {case.name} ended with code {code}; see {folder}/client.log")
    _reduce_profiles(folder)
    return len(_specs(case, folder, profile))


@contextlib.contextmanager
def _state_log(path: Path) -> Iterator[None]:
    """`nvidia-smi` beside the runs, once a second: clocks, temperature, power, use. Nothing where there is no such
    program.
    """
    query = "timestamp,clocks.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu,memory.used"
    query += ",clocks_event_reasons.active"
    try:
        with path.open("a") as file:
            process = subprocess.Popen(
                ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-l", "1"],
                stdout=file,
                stderr=subprocess.DEVNULL,
            )
    except OSError:
        yield
        return
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def run_offline(case: Case, out: Path, work: Path, budget_s: float) -> int:
    """The offline batches of a case, in one `LLM`; done or not as a whole. Returns 1 if the budget cut it."""
    folder = out / case.name
    done = folder / "offline.done"
    if not case.batches or done.exists():
        return 0
    (folder / "steps-offline").mkdir(parents=True, exist_ok=True)
    model = work / "models" / case.model
    write_model(case.model, model)
    env = {**_environment(folder, work), "REVATI_STEPTRACE": str(folder / "steps-offline")}
    spec = folder / "offline-spec.json"
    spec.write_text(
        json.dumps(
            {
                "model": str(model),
                "server": list(case.server),
                "seed": 5,
                "repeats": case.offline_repeats,
                "batches": [asdict(b) for b in case.batches],
                "out": str(folder / "offline.jsonl"),
            }
        )
    )
    with (folder / "offline.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "revati.calibration.measure.offline", str(spec)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        try:
            code = process.wait(budget_s)
        except subprocess.TimeoutExpired:
            return 1
        finally:
            _stop(process)
    if code:
        raise RevatiError(f"the offline run of {case.name} ended with code {code}; see {folder}/offline.log")
    done.write_text("")
    return 0


def run_replay(case: Case, out: Path, work: Path, budget_s: float) -> int:
    """The runs of a case that replay a trace, in one process with the engine. Returns how many are left when the
    budget ends; raises RevatiError if the process fails, UsageError for a case without traces.
    """
    folder = out / case.name
    folder.mkdir(parents=True, exist_ok=True)
    if not case.runs or not all(run.trace for run in case.runs):
        raise UsageError(f"{case.path}: --in-process replays traces, and this case has runs without one")
    specs = _specs(case, folder, False)
    if not specs:
        return 0
    model = work / "models" / case.model
    write_model(case.model, model)
    env = _environment(folder, work)
    (folder / "session.json").write_text(json.dumps({**session_facts(open_nvml(dry=True)), "case": case.name}))
    spec = folder / "replay.json.spec"
    spec.write_text(
        json.dumps({"model": str(model), "server": list(case.server), "folder": str(folder), "runs": specs})
    )
    command = [sys.executable, "-m", "revati.calibration.measure.replay", str(spec)]
    with (folder / "server.log").open("a", encoding="utf-8") as log, _state_log(folder / "state.csv"):
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)
        try:
            code = process.wait(budget_s)
        except subprocess.TimeoutExpired:
            code = 0
        finally:
            _stop(process)
    facts = startup_facts((folder / "server.log").read_text(errors="replace"))
    (folder / "startup.json").write_text(json.dumps(facts))
    if code:
        raise RevatiError(f"the replay of {case.name} ended with code {code}; see {folder}/server.log")
    return len(_specs(case, folder, False))


def _reduce_profiles(folder: Path) -> None:
    """Turns torch.profiler's traces into rows of GPU activity (name, start, duration, grid, block, stream, graph)
    and drops them.
    """
    for path in sorted((folder / "profile").glob("*.json*")) if (folder / "profile").exists() else []:
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8") as file:
                events = json.load(file)["traceEvents"]
        except (ValueError, KeyError, OSError, EOFError):
            continue
        rows = [
            gpu_activity(e)
            for e in events
            if e.get("ph") == "X" and e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
        ]
        if rows:
            with gzip.open(folder / "kernels.jsonl.gz", "at", encoding="utf-8") as out:
                for row in sorted(rows, key=lambda r: float(r["ts"])):
                    out.write(json.dumps(row, separators=(",", ":")) + "\n")
        path.unlink()


def gpu_activity(event: dict[str, Any]) -> dict[str, Any]:
    """One trace event as a row: microseconds, grid and block as lists, bytes for copies, `graph` the graph's id (0:
    none).
    """
    args = event.get("args", {})
    return {
        "name": event.get("name"),
        "kind": event.get("cat"),
        "ts": event.get("ts"),
        "us": event.get("dur"),
        "grid": args.get("grid"),
        "block": args.get("block"),
        "stream": args.get("stream"),
        "bytes": args.get("bytes"),
        "shared": args.get("shared memory"),
        "regs": args.get("registers per thread"),
        "graph": args.get("graph id", 0),
        "node": args.get("graph node id", 0),
        "correlation": args.get("correlation"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `scripts/gpu/serving`."""
    parser = argparse.ArgumentParser(
        prog="serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder of models and caches (default: OUT/work)")
    parser.add_argument("--budget", type=float, default=900.0, metavar="SECONDS")
    parser.add_argument("--only", choices=("serve", "offline"))
    parser.add_argument("--no-profile", action="store_true", help="no profiled run at the end (emulation has no CUPTI)")
    parser.add_argument("--in-process", action="store_true", help="replay traces through the engine, without a server")
    parser.add_argument("--dry-run", action="store_true", help="check the case and print the commands, start nothing")
    parser.add_argument("--small", action="store_true", help="few short requests: try the code, not the card")
    args = parser.parse_args(argv)
    work = args.work or args.out / "work"
    try:
        case = load_case(args.case)
        case = case.scaled_down() if args.small else case
        if args.dry_run:
            return _show(case, args.out)
        if not version_of("vllm"):
            raise UsageError("vLLM is not installed here; see scripts/gpu/pack for a machine without network")
        deadline, left = time.monotonic() + args.budget, 0
        if args.in_process:
            left += run_replay(case, args.out.resolve(), work.resolve(), args.budget)
        elif args.only != "offline":
            left += run_serve(case, args.out.resolve(), work.resolve(), args.budget, profile=not args.no_profile)
        if args.only != "serve" and not args.in_process and deadline - time.monotonic() > 30:
            left += run_offline(case, args.out.resolve(), work.resolve(), deadline - time.monotonic())
    except RevatiError as problem:
        print(f"serving: {problem}", file=sys.stderr)
        return problem.exit_code
    print(f"serving: {case.name}: {left} runs left")
    return 0


def _show(case: Case, out: Path) -> int:
    print(f"vllm serve {case.model} --load-format dummy {' '.join(case.server)}")
    from revati.calibration.measure.client import bench_arguments

    for spec in _specs(case, out / case.name, False):
        print("vllm bench serve " + " ".join(bench_arguments(spec, case.model, 8000, out / case.name)))
    for batch in case.batches:
        print(f"LLM.generate: {batch.batch} x {batch.input} tokens -> {batch.output}, {case.offline_repeats} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
