"""`revati run`: a command on virtual GPUs in virtual time."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revati._catalogue import parse_gpu_option
from revati._errors import RevatiError, UnknownNameError, UsageError
from revati._idle import IdleBrake
from revati._program import check_program, find_program
from revati._serving import serving_command

__all__ = ["add", "summary_lines"]

INTERRUPTED = 130


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run",
        help="run a command on virtual GPUs in virtual time",
        description="Run a command, with everything that it starts, on virtual GPUs in one virtual clock.",
    )
    add_run_options(parser)
    parser.add_argument("--listen", type=int, metavar="PORT", help="offer the gRPC services on 127.0.0.1:PORT too")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="fail after so many seconds of real time")
    parser.add_argument("--limit-virtual", type=float, metavar="SECONDS", help="fail after so many virtual seconds")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write times, jumps and GPU time as JSON")
    parser.add_argument("--quiet", action="store_true", help="no summary at the end")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    parser.set_defaults(run=_run)


def add_run_options(parser: Any) -> None:
    """The options that every command with a virtual GPU shares."""
    parser.add_argument("--gpu", default="h100-sxm", metavar="NAME[:N]", help="virtual GPUs (default h100-sxm)")
    parser.add_argument(
        "--policy",
        choices=("free", "modelled", "measured"),
        default="modelled",
        help="what host time counts: none (free), a host profile's (modelled, the default), this host's (measured)",
    )
    parser.add_argument(
        "--order",
        choices=("turns", "fired"),
        default="turns",
        help="threads that could run at one virtual instant go on one by one, the same in every run (turns, default), "
        "or beside each other: faster, but bursts differ from run to run (fired)",
    )
    parser.add_argument(
        "--host-profile", default="default", metavar="NAME|FILE", help="policy modelled: the host (docs/concepts.md)"
    )
    parser.add_argument(
        "--predictor", default="auto", metavar="KIND", help="durations: auto, roofline, constant:MICROSECONDS"
    )
    parser.add_argument("--predictor-delay-ms", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--host-ratio", type=float, default=1.0, metavar="R", help="policy measured: target CPU time per host CPU time"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the token oracle")
    parser.add_argument("--routing", metavar="NAME", help="experts: power_law_1.01 (default), power_law_1.2, balanced")
    parser.add_argument("--oracle", type=Path, metavar="FILE", help="what requests answer (docs/cli.md, token oracle)")
    parser.add_argument("--trace", action="store_true", help="log every step of the clock on stderr: who goes on, when")


def _run(arguments: argparse.Namespace) -> int:
    from revati._run import refuse_nesting
    from revati_coordinator.supervisor import supervise

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UsageError("nothing to run: give the command after --")
    refuse_nesting(os.environ)
    if arguments.host_ratio <= 0:
        raise UsageError("--host-ratio must be above 0")
    program = find_program(command[0], os.environ)
    check_program(program, os.environ)
    argv = [program, *command[1:]]
    check_command(argv)
    return supervise(lambda: _coordinate(arguments, argv))


def check_routing(name: str | None) -> str | None:
    from revati_predictors import ROUTINGS

    if name is not None and name not in ROUTINGS:
        raise UnknownNameError("routing", name, ROUTINGS)
    return name


def check_command(argv: Sequence[str]) -> None:
    """What can be said about a framework's command line before it starts. Raises UsageError or HostError."""
    from revati._hostcheck import check_port
    from revati._program import check_model_directory

    serving = serving_command(argv)
    if serving is not None:
        if serving.model is not None:
            check_model_directory(serving.model)
        if serving.port is not None:
            check_port(serving.host, serving.port)


def _coordinate(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    try:
        return run_command(arguments, argv)
    except RevatiError as error:
        sys.stderr.write(f"revati: {error}\n")
        return error.exit_code


def run_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Runs `argv` to its end and prints the summary; returns the exit code."""
    import dataclasses

    from revati._run import Run, RunOptions, end_error, parse_predictor
    from revati_coordinator.coordinator import signals_to

    predictor = dataclasses.replace(parse_predictor(arguments.predictor), delay_ms=arguments.predictor_delay_ms)
    options = RunOptions(
        gpus=parse_gpu_option(arguments.gpu),
        policy=arguments.policy,
        order=arguments.order,
        host_profile=arguments.host_profile,
        predictor=predictor,
        seed=arguments.seed,
        oracle=arguments.oracle,
        routing=check_routing(arguments.routing),
        command=shlex.join(argv),
        listen_port=arguments.listen,
        limit_real_s=arguments.limit,
        limit_virtual_s=arguments.limit_virtual,
        host_ratio=arguments.host_ratio,
        trace=arguments.trace,
    )
    with Run(options) as run:
        interrupts = Interrupts(run)
        with signals_to(interrupts, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)):
            run.spawn(argv, run.environment(argv))
            run.start()
            end = run.wait(IdleBrake(run) if serving_command(argv) is not None else None)
        use, status, asked = run.use(), run.coordinator.status(), run.predictor_statistics()
    error = end_error(end)
    if arguments.report is not None:
        write_report(
            arguments.report, options, run.host_profile.identity if run.host_profile else None, end, use, status, asked
        )
    if not arguments.quiet:
        sys.stderr.write("\n".join(summary_lines(end, use, status)) + "\n")
    if interrupts.received:
        return INTERRUPTED if interrupts.received == signal.SIGINT else 128 + interrupts.received
    if error is not None:
        raise error
    return int(end.exit_code)


def write_report(
    path: Path, options: Any, host_profile: str | None, end: Any, use: Any, status: Any, asked: Any
) -> None:
    """Everything that a run can say about itself, as JSON. Raises UsageError when the file cannot be written."""
    import dataclasses
    import json

    from revati_predictors.results import uncovered_operators

    used = dataclasses.asdict(use)
    asked = asked | {"uncovered": uncovered_operators(used.pop("operator_ns"), asked)}
    asked.pop("operators", None)
    report = {
        "schema": "revati-run-1",
        "command": options.command,
        "gpu": options.gpus.gpu.key,
        "gpus": options.gpus.count,
        "policy": options.policy,
        "order": options.order,
        "host_profile": host_profile,
        "predictor": str(options.predictor),
        "seed": options.seed,
        "end": dataclasses.asdict(end),
        "clock": dataclasses.asdict(status),
        "use": used,
        "predictor_service": asked,
    }
    try:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report {path}: {error.strerror}") from error


class Interrupts:
    """First signal: passed on, so that the program can end in order. Second: the run is stopped."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.received = 0

    def __call__(self, number: int) -> None:
        if self.received or number != signal.SIGINT:
            self._run.coordinator.stop(f"stopped by {signal.Signals(number).name}")
        else:
            self._run.coordinator.signal(number)
        self.received = self.received or number


def summary_lines(end: Any, use: Any, status: Any) -> list[str]:
    """What a run ends with: times, speed, and where the GPU time went."""
    virtual, real = end.virtual_ns / 1e9, end.real_ns / 1e9
    speed = f"{virtual / real:.2f}x real time" if real > 0 else "at once"
    lines = [f"revati: {virtual:.3f} virtual s in {real:.2f} s, {speed}, {status.jumps} jumps"]
    total = use.total_ns
    if total:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in use.family_share().items())
        lines.append(f"revati: {total / 1e9:.3f} s of GPU time: {shares}")
        uncovered = {k: v for k, v in use.source_share().items() if k in ("extrapolated", "fallback") and v >= 0.0005}
        if uncovered:
            lines.append(
                "revati: of it predicted outside measured coverage: "
                + ", ".join(f"{k} {v:.1%}" for k, v in uncovered.items())
            )
    if use.unknown_reads:
        lines.append(f"revati: WARNING: {use.unknown_reads} reads of unknown device memory; results may be incomplete")
    if use.unsupported_calls:
        lines.append(
            f"revati: WARNING: {use.unsupported_calls} calls that the virtual device lacks (see the messages above)"
        )
    return lines
