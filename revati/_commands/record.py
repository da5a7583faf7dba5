"""`revati record`: a command on a real GPU (or a virtual one), every operator written down with its duration."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from revati._errors import HostError, RunError, UsageError
from revati._program import check_program, find_program

__all__ = ["add"]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "record",
        help="run a command on a real GPU and write every operator with its duration to Parquet",
        description="Run a command unchanged and record what it asks of the GPU: every operator with its measured "
        "duration, host time by API call, batches. See docs/calibration.md.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    parser.add_argument(
        "--method",
        choices=("auto", "cupti", "event"),
        default="auto",
        help="where durations come from: CUPTI, CUDA events around each call, or CUPTI if it can be used (default)",
    )
    parser.add_argument(
        "--graph-nodes",
        action="store_true",
        help="with events: put two events around every node of captured graphs (changes what is measured)",
    )
    parser.add_argument(
        "--finish", action="store_true", help="only write FILE.parquet from what an interrupted recording left"
    )
    parser.add_argument("--keep", action="store_true", help="keep the raw records beside FILE.parquet")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from revati.recording.parquet import need_pyarrow

    need_pyarrow()
    folder = arguments.out.with_name(arguments.out.name + ".raw")
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if arguments.finish:
        if command:
            raise UsageError("--finish runs no command")
        if not folder.is_dir():
            raise UsageError(f"{folder} does not exist: there is no interrupted recording to finish")
        _finish(arguments, folder)
        return 0
    if not command:
        raise UsageError("nothing to record: give the command after --")
    program = find_program(command[0], os.environ)
    check_program(program, os.environ)
    facts = _conditions(command)
    _make_folder(folder, facts)
    code = _record([program, *command[1:]], _environment(arguments, folder))
    if not any(folder.glob("*.seg")):
        shutil.rmtree(folder)
        raise RunError(
            f"nothing was recorded: the command ended with code {code} and made no CUDA call, or dropped LD_PRELOAD"
        )
    _finish(arguments, folder)
    return code


def _conditions(command: list[str]) -> dict[str, Any]:
    """Versions, card and clock settings. Raises HostError without a card."""
    import shlex

    from revati.calibration.measure.conditions import NoGpuError, open_nvml, session_facts
    from revati.calibration.rows import wall_clock

    try:
        facts = session_facts(open_nvml(dry=False))
    except NoGpuError:
        raise HostError(
            "there is no GPU to record on; without one, record on a virtual one: "
            "revati run --gpu h100-sxm -- revati record --out FILE.parquet -- COMMAND"
        ) from None
    return {**facts, "time": wall_clock(), "command": shlex.join(command)}


def _make_folder(folder: Path, facts: dict[str, Any]) -> None:
    if folder.exists():
        raise UsageError(
            f"{folder} is left of an interrupted recording: write its table with --finish, or remove the folder"
        )
    try:
        folder.mkdir()
        (folder / "session.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {folder.with_suffix('')}: {error.strerror}") from error


def _environment(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """The recorder first, so that what it forwards to is the virtual device where there is one."""
    from revati._hostcheck import recorder_library

    env = dict(os.environ)
    env["LD_PRELOAD"] = ":".join(filter(None, [str(recorder_library()), env.get("LD_PRELOAD")]))
    env["REVATI_RECORD"] = str(folder.resolve())
    env["REVATI_RECORD_METHOD"] = arguments.method
    if arguments.graph_nodes:
        env["REVATI_RECORD_NODES"] = "1"
    return env


def _record(argv: list[str], env: dict[str, str]) -> int:
    """Runs the command to its end; signals reach it, and the table is written whatever happens to it.

    A terminal sends Ctrl-C to the command itself; `revati run` sends it only to the program that it started.
    """
    process = subprocess.Popen(argv, env=env)
    passed_on = [signal.SIGTERM, signal.SIGHUP, *([signal.SIGINT] if "REVATI_PAGE" in env else [])]
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    for number in passed_on:
        signal.signal(number, lambda number, _frame: process.send_signal(number))
    code = process.wait()
    return code if code >= 0 else 128 - code


def _finish(arguments: argparse.Namespace, folder: Path) -> None:
    from revati.recording.parquet import write_recording

    facts = json.loads((folder / "session.json").read_text(encoding="utf-8"))
    metadata = write_recording(folder, arguments.out, facts)
    if not arguments.keep:
        shutil.rmtree(folder)
    sys.stderr.write("\n".join(summary_lines(arguments.out, metadata)) + "\n")


def summary_lines(out: Path, metadata: dict[str, Any]) -> list[str]:
    """What a recording ends with."""
    pairing = metadata["pairing"]
    total = sum(pairing["family_ns"].values())
    rows = pairing["operators"] + pairing["node_rows"] + pairing["unowned"]
    methods = sorted({p["method"] for p in metadata["processes"]})
    lines = [f"revati record: {rows} operators, {total / 1e9:.6f} s of GPU time by {' and '.join(methods)}, in {out}"]
    families = sorted(pairing["family_ns"].items(), key=lambda item: -item[1])
    lines.append("revati record: " + ", ".join(f"{n} {ns / total:.1%}" for n, ns in families if total and ns))
    if pairing["graph_launches"]:
        lines.append(
            f"revati record: {pairing['graph_launches']} graph launches, nodes timed in "
            f"{pairing['graph_launches_with_nodes']}"
        )
    if pairing["untimed"]:
        lines.append(f"revati record: WARNING: {pairing['untimed']} operators without a duration")
    if pairing["unowned"]:
        lines.append(
            f"revati record: WARNING: {pairing['unowned']} pieces of GPU work were made by no recorded call; "
            "their rows have no call"
        )
    return lines
