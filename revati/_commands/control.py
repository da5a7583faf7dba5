"""`revati status`, `pause`, `resume`, `step`, `run-to`, `stop`, `metrics`: talk to a running coordinator."""

from __future__ import annotations

import argparse
import json
from typing import Any

from revati._errors import RunError, UsageError
from revati._table import table

__all__ = ["add"]


def add(subparsers: Any) -> None:
    status = _parser(subparsers, "status", "show running emulations")
    status.add_argument("--all", action="store_true", help="list every run")
    status.add_argument("--threads", action="store_true", help="also what every thread waits for")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(run=_status)
    for name, text in (
        ("pause", "stop the virtual clock"),
        ("resume", "let the virtual clock go on"),
        ("stop", "end a run"),
        ("metrics", "print the run's metrics in Prometheus text format"),
    ):
        _parser(subparsers, name, text).set_defaults(run=_simple)
    step = _parser(subparsers, "step", "let a paused clock make some jumps")
    step.add_argument("jumps", nargs="?", type=int, default=1)
    step.set_defaults(run=_simple)
    run_to = _parser(subparsers, "run-to", "let the clock go on to a virtual time and pause there")
    run_to.add_argument("seconds", type=float, help="virtual seconds since the start of the run")
    run_to.set_defaults(run=_simple)


def _parser(subparsers: Any, name: str, text: str) -> Any:
    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--run", type=int, metavar="PID", dest="run_pid", help="which run, when there are several")
    return parser


def _call(arguments: argparse.Namespace, method: str, request: Any) -> Any:
    from revati_coordinator.client import ControlClient
    from revati_coordinator.errors import CoordinatorError, NotRunningError
    from revati_coordinator.rundir import find_run

    try:
        client = ControlClient(find_run(arguments.run_pid)["control"])
        try:
            return client.call(method, request)
        finally:
            client.close()
    except NotRunningError as error:
        raise RunError(str(error)) from error
    except CoordinatorError as error:
        raise UsageError(str(error)) from error


def _status(arguments: argparse.Namespace) -> int:
    from google.protobuf.json_format import MessageToDict

    from revati_coordinator.generated import clock_pb2 as pb
    from revati_coordinator.rundir import live_runs

    if arguments.all:
        rows = [
            [str(pid), i.get("gpu", "?"), i.get("policy", "?"), i.get("command", "?")] for pid, i in live_runs().items()
        ]
        print(table(["run", "gpu", "policy", "command"], rows))
        return 0
    reply = _call(arguments, "Status", pb.StatusRequest())
    threads = _call(arguments, "Threads", pb.ThreadsRequest()) if arguments.threads else None
    if arguments.json:
        both = {"status": MessageToDict(reply, preserving_proto_field_name=True)}
        if threads is not None:
            both["threads"] = MessageToDict(threads, preserving_proto_field_name=True).get("threads", [])
        print(json.dumps(both, indent=2))
        return 0
    print_status(reply)
    if threads is not None:
        rows = [
            [
                str(t.pid),
                str(t.tid),
                t.process,
                t.thread,
                t.state,
                _deadline(t.deadline_ns, reply.now_ns),
                str(t.fired),
                t.wait,
            ]
            for t in threads.threads
        ]
        print(
            table(["pid", "tid", "process", "thread", "state", "wakes in", "jumps", "wait"], rows, right=(0, 1, 5, 6))
        )
    return 0


def _deadline(deadline_ns: int, now_ns: int) -> str:
    return "-" if deadline_ns == 2**63 - 1 else f"{(deadline_ns - now_ns) / 1e6:.3f} ms"


def print_status(reply: Any) -> None:
    """Two lines about a run."""
    virtual, real = reply.virtual_ns / 1e9, reply.real_ns / 1e9
    speed = f"{virtual / real:.1f}x" if real > 0 else "-"
    print(f"run {reply.pid} on {reply.gpu}, policy {reply.policy}, predictor {reply.predictor}: {reply.command}")
    print(
        f"{virtual:.3f} virtual s in {real:.1f} s ({speed}), {reply.jumps} jumps; {reply.processes} processes, "
        f"{reply.threads} threads, {reply.running} running, {reply.spinning} polling, {reply.actors} actors, "
        f"{reply.holds} holds{', PAUSED' if reply.paused else ''}"
    )


def _simple(arguments: argparse.Namespace) -> int:
    from revati_coordinator.generated import clock_pb2 as pb

    if arguments.name == "metrics":
        print(_call(arguments, "Metrics", pb.MetricsRequest()).text, end="")
        return 0
    if arguments.name == "step":
        if arguments.jumps < 1:
            raise UsageError("step: the number of jumps must be 1 or more")
        reply = _call(arguments, "Step", pb.StepRequest(jumps=arguments.jumps))
    elif arguments.name == "run-to":
        reply = _call(arguments, "RunTo", pb.RunToRequest(t_ns=round(arguments.seconds * 1e9)))
    else:
        request = {"pause": pb.PauseRequest, "resume": pb.ResumeRequest, "stop": pb.StopRequest}[arguments.name]()
        reply = _call(arguments, arguments.name.capitalize(), request)
    print_status(reply)
    return 0
