"""Everything that is to be measured on a card, in the order of its worth, within a total budget; resumable at every
step.

    scripts/gpu/session --work /tmp/revati-gpu --out "$OUT" --budget 520

A second call with the same --work goes on where the first one stopped. --out receives one archive of all results so
far (in parts of at most 15 MiB) and `summary.txt`, renewed after each step. With --pack, parts of a packed vLLM are
taken in as they arrive (see scripts/gpu/pack); steps that need vLLM wait for it, the others do not.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revati.calibration.rows import read_lines, wall_clock

__all__ = ["STEPS", "Step", "main", "plan_steps"]

_ROOT = Path(__file__).resolve().parents[3]
_PART_BYTES = 15 << 20
_KEEP_S = 8.0  # left at the end to pack the results
_CASES = ("llama-3.1-8b-bf16", "qwen3-30b-a3b-bf16", "llama-3.1-8b-fp8", "qwen3-8b-bf16")


@dataclass(frozen=True)
class Step:
    """One program of the session: run only with at least `least_s` left, for at most `most_s`; `again` if a cut
    step may go on.
    """

    name: str
    command: tuple[str, ...]
    least_s: float
    most_s: float
    needs_vllm: bool = False


def _serving(case: str, what: str, least_s: float, most_s: float) -> Step:
    return Step(
        f"{what}:{case}", ("serving", "--case", f"validation/cases/{case}.yaml", "--only", what), least_s, most_s, True
    )


STEPS: tuple[Step, ...] = (
    Step("facts", ("facts",), 15, 110),
    Step("sweep-copies", ("sweep", "--family", "copy", "--family", "graph", "--tiers", "0,1"), 10, 40),
    Step("sweep-gemm", ("sweep", "--family", "gemm", "--tiers", "0,1", "--no-fallback"), 10, 120),
    # From here the order is that of worth; all need vLLM, and the sweep fills what time is left.
    Step("sweep-0", ("sweep", "--tiers", "0"), 15, 110, True),
    _serving("llama-3.1-8b-bf16", "serve", 200, 480),
    Step("cupti-0", ("sweep", "--tiers", "0", "--cupti"), 20, 60, True),
    _serving("qwen3-30b-a3b-bf16", "serve", 180, 360),
    _serving("llama-3.1-8b-bf16", "offline", 100, 200),
    Step("sweep-1", ("sweep", "--tiers", "0,1"), 20, 150, True),
    _serving("llama-3.1-8b-fp8", "serve", 170, 330),
    _serving("qwen3-8b-bf16", "serve", 170, 330),
    _serving("qwen3-30b-a3b-bf16", "offline", 100, 200),
    _serving("llama-3.1-8b-fp8", "offline", 90, 180),
    _serving("qwen3-8b-bf16", "offline", 90, 180),
    Step("sweep-2", ("sweep", "--tiers", "0,1,2"), 20, 300, True),
)


class State:
    """What is done, kept in WORK/state.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.done: dict[str, float] = dict(content.get("done", {}))
        self.failed: dict[str, str] = dict(content.get("failed", {}))
        self.tries: dict[str, int] = dict(content.get("tries", {}))

    def save(self) -> None:
        self.path.write_text(json.dumps({"done": self.done, "failed": self.failed, "tries": self.tries}, indent=1))


def plan_steps(state: State, left_s: float, have_vllm: bool, only: Sequence[str] = ()) -> Step | None:
    """The next step that is not done, has what it needs and has a chance to be useful in the time left."""
    for step in STEPS:
        if step.name in state.done or state.tries.get(step.name, 0) >= 3 or (only and step.name not in only):
            continue
        if step.needs_vllm and not have_vllm:
            continue
        if left_s >= step.least_s:
            return step
    return None


class Session:
    """One call: budget, folders, environment of the programs it starts."""

    def __init__(self, work: Path, out: Path | None, budget_s: float, dry: bool) -> None:
        self.work, self.out, self.dry = work, out, dry
        self.results = work / "results"
        self.results.mkdir(parents=True, exist_ok=True)
        self.deadline = time.monotonic() + budget_s
        self.state = State(work / "state.json")
        self.log = (work / "results" / "session.log").open("a", encoding="utf-8")
        self.site = work / "site"
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1"}

    def say(self, text: str) -> None:
        line = f"{wall_clock()} {text}"
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def left(self) -> float:
        return self.deadline - time.monotonic() - _KEEP_S

    def take_pack(self, pack: Path) -> None:
        """Keeps parts that came with this call; unpacks when all are there."""
        store = self.work / "pack"
        for folder in sorted(p for p in pack.glob("[0-9]*") if p.is_dir()) if pack.exists() else []:
            if not (store / folder.name).exists():
                shutil.copytree(folder, store / folder.name)
                self.say(f"took part {folder.name} of the pack")
        if store.exists() and not (self.site / ".complete").exists():
            tool = [sys.executable, str(_ROOT / "scripts" / "gpu" / "pack")]
            check = subprocess.run([*tool, "--check", str(store)], capture_output=True, text=True)
            if check.returncode:
                self.say(check.stdout.strip())
                return
            start = time.monotonic()
            done = subprocess.run(
                [*tool, "--unpack", str(store), "--into", str(self.site)], capture_output=True, text=True
            )
            if done.returncode:
                self.say(f"unpacking failed: {done.stderr[-300:]}")
                return
            (self.site / ".complete").write_text("")
            shutil.rmtree(store)
            store.mkdir()
            self.say(f"unpacked vLLM in {time.monotonic() - start:.0f} s")

    def have_vllm(self) -> bool:
        """Whether vLLM can be imported by the programs started from here; tried once a call."""
        if (self.site / ".complete").exists():
            self.env["PYTHONPATH"] = os.pathsep.join(p for p in (str(self.site), os.environ.get("PYTHONPATH", "")) if p)
        probe = subprocess.run(
            [sys.executable, "-c", "import importlib.util,sys;sys.exit(importlib.util.find_spec('vllm') is None)"],
            env=self.env,
            capture_output=True,
        )
        return probe.returncode == 0

    def prewarm(self) -> subprocess.Popen[bytes] | None:
        """Builds FlashInfer's sampler in the background: at a server's first start it would cost most of a minute."""
        waiting = any(s.command[0] == "serving" and s.name not in self.state.done for s in STEPS)
        if self.dry or not waiting:
            return None
        env = {**self.env, "FLASHINFER_WORKSPACE_BASE": str(self.work / "cache" / "flashinfer")}
        with (self.results / "prewarm.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", "from flashinfer.sampling import get_sampling_module as g; g()"],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def await_prewarm(self, process: subprocess.Popen[bytes] | None) -> None:
        """Waits for the sampler's build before a server starts; without it vLLM's own sampler is used, and said so."""
        if process is None:
            return
        try:
            code: int | None = process.wait(max(1.0, min(120.0, self.left() - 150)))
        except subprocess.TimeoutExpired:
            code = None
        if code != 0 and "VLLM_USE_FLASHINFER_SAMPLER" not in self.env:
            self.env["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
            self.say(f"FlashInfer's sampler did not build (exit {code}, see prewarm.log): servers run without it")

    def run(self, step: Step) -> None:
        """Runs one step within its limits and the time left; records how it ended."""
        budget = max(5.0, min(step.most_s, self.left()))
        program, *arguments = step.command
        if program == "serving":
            budget = max(5.0, budget - 25)  # a server takes its time to end
        command = [
            sys.executable,
            str(_ROOT / "scripts" / "gpu" / program),
            *arguments,
            "--out",
            str(self.results),
            "--budget",
            f"{budget:.0f}",
        ]
        if program == "serving":
            command += ["--work", str(self.work)]
        if self.dry:
            command += ["--dry-run", *(["--limit", "12"] if program == "sweep" else [])]
        self.say(f"{step.name}: up to {budget:.0f} s")
        self.state.tries[step.name] = self.state.tries.get(step.name, 0) + 1
        start = time.monotonic()
        log_path = self.results / "programs.log"
        with log_path.open("ab") as log:
            before = log.tell()
            # A program keeps to its budget by itself; the limit is for one that hangs.
            process = subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT, cwd=_ROOT)
            try:
                code: int | None = process.wait(budget + 45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
        with log_path.open("rb") as log:
            log.seek(before)
            said = log.read().decode(errors="replace").strip().splitlines()
        took = time.monotonic() - start
        self.say(
            f"{step.name}: {took:.0f} s, {'killed' if code is None else f'exit {code}'}: "
            f"{said[-1][:200] if said else ''}"
        )
        last = said[-1] if said else ""
        if code == 0 and (" 0 left" in last or " 0 runs left" in last or self.dry):
            self.state.done[step.name] = round(took, 1)
        elif code:
            self.state.failed[step.name] = last[:300]
        self.state.save()

    def pack_results(self) -> None:
        """Writes results.tar.xz in parts and summary.txt into --out."""
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        self.log.flush()
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz", preset=2) as archive:
            for path in sorted(self.results.rglob("*")):
                relative = path.relative_to(self.results)
                if path.is_file() and relative.parts[0] != "work" and "profile" not in relative.parts:
                    archive.add(path, f"results/{relative}")
            if self.state.path.exists():
                archive.add(self.state.path, "results/state.json")
        data = buffer.getvalue()
        for old in self.out.glob("results.tar.xz*"):
            old.unlink()
        for number, at in enumerate(range(0, len(data), _PART_BYTES)):
            (self.out / f"results.tar.xz.{number:02d}").write_bytes(data[at : at + _PART_BYTES])
        (self.out / "summary.txt").write_text(self.summary())

    def summary(self) -> str:
        lines = [f"{name}: done in {took} s" for name, took in self.state.done.items()]
        lines += [f"{name}: FAILED: {why}" for name, why in self.state.failed.items() if name not in self.state.done]
        for name in ("sweep", "kernels", "facts"):
            kinds = [r.get("kind") for r in read_lines(self.results / f"{name}.jsonl")]
            lines.append(f"{name}.jsonl: {kinds.count('row')} rows, {kinds.count('error')} errors")
        for path in sorted(self.results.glob("*/*-[0-9].json")):
            try:
                result = json.loads(path.read_text())
            except ValueError:
                continue
            lines.append(
                f"{path.parent.name}/{path.stem}: {result.get('completed')} requests, "
                f"TTFT {result.get('median_ttft_ms', 0):.1f} "
                f"TPOT {result.get('median_tpot_ms', 0):.2f} E2E {result.get('median_e2el_ms', 0):.0f} ms (medians), "
                f"{result.get('output_throughput', 0):.0f} tok/s"
            )
        lines += [f"not done: {step.name}" for step in STEPS if step.name not in self.state.done]
        return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `scripts/gpu/session`."""
    parser = argparse.ArgumentParser(
        prog="session", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder kept between calls")
    parser.add_argument("--out", type=Path, help="folder that receives the packed results")
    parser.add_argument("--budget", type=float, default=520.0, metavar="SECONDS", help="total time of this call")
    parser.add_argument("--pack", type=Path, default=_ROOT / ".gpu" / "pack", help="folder with parts of a packed vLLM")
    parser.add_argument("--only", action="append", default=[], choices=[s.name for s in STEPS], metavar="STEP")
    parser.add_argument("--dry-run", action="store_true", help="every step without a GPU, tiny")
    parser.add_argument("--list", action="store_true", help="print the steps and their limits")
    args = parser.parse_args(argv)
    if args.list:
        for step in STEPS:
            print(
                f"{step.name:28s} at least {step.least_s:4.0f} s, at most {step.most_s:4.0f} s"
                f"{', needs vLLM' if step.needs_vllm else ''}"
            )
        return 0
    session = Session(args.work.resolve(), args.out.resolve() if args.out else None, args.budget, args.dry_run)
    return _loop(session, args.pack, args.only)


def _loop(session: Session, pack: Path, only: Sequence[str]) -> int:
    session.take_pack(pack)
    have_vllm = session.have_vllm()
    session.say(f"vLLM {'is here' if have_vllm else 'is not here'}; {session.left():.0f} s for steps")
    background = session.prewarm() if have_vllm else None
    ran: set[str] = set()
    choose: Callable[[], Step | None] = lambda: plan_steps(  # noqa: E731
        session.state, session.left(), have_vllm, only
    )
    while (step := choose()) is not None:
        if step.name in ran:  # cut by its own limit a moment ago: the rest of it belongs to a later call
            session.state.tries[step.name] = 3
            continue
        ran.add(step.name)
        if step.command[0] == "serving":
            session.await_prewarm(background)
        session.run(step)
        session.pack_results()
    for name in ran:  # a later call may try again what did not finish
        if name not in session.state.done:
            session.state.tries[name] = min(session.state.tries.get(name, 0), 1)
    session.state.save()
    session.pack_results()
    if background is not None and background.poll() is None:
        background.terminate()
    print(session.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
