"""`revati smi`: the virtual cards of a running emulation, in the manner of nvidia-smi."""

from __future__ import annotations

import argparse
from typing import Any

from revati._catalogue import DRIVER_STRING, DRIVER_VERSION, MIB
from revati._commands.control import _call

__all__ = ["add"]

WIDTH = 87


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "smi", help="show the virtual GPUs of a running emulation", description="Show the virtual GPUs of a run."
    )
    parser.add_argument("--run", type=int, metavar="PID", dest="run_pid", help="which run, when there are several")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from revati_coordinator.generated import clock_pb2 as pb

    status = _call(arguments, "Status", pb.StatusRequest())
    rule = "+" + "-" * WIDTH + "+"
    cuda = f"{DRIVER_VERSION // 1000}.{DRIVER_VERSION % 1000 // 10}"
    print(rule)
    print(_line(f" Revati virtual GPUs      Driver Version: {DRIVER_STRING}      CUDA Version: {cuda}"))
    print(_line(f" Virtual time: {status.virtual_ns / 1e9:.3f} s"))
    print(rule)
    print(_line(f" {'GPU':>3}  {'Name':34} {'Bus-Id':18} {'Memory-Usage':>22}  Util"))
    print(rule)
    for index, gpu in enumerate(status.gpus):
        used = f"{gpu.used_bytes // MIB}MiB / {gpu.total_bytes // MIB}MiB"
        busy = f"{100 * gpu.busy_ns / status.virtual_ns:.0f}%" if status.virtual_ns else "0%"
        print(_line(f" {index:>3}  {gpu.name[:34]:34} {gpu.bus_id:18} {used:>22}  {busy:>4}"))
    print(rule)
    print(_line(f" {'GPU':>3}  {'PID':>9}  {'Process name':40} {'GPU Memory':>14}"))
    print(rule)
    for index, gpu in enumerate(status.gpus):
        for client in gpu.clients:
            print(_line(f" {index:>3}  {client.pid:>9}  {client.name[:40]:40} {client.used_bytes // MIB:>11}MiB"))
    print(rule)
    return 0


def _line(text: str) -> str:
    return f"|{text:{WIDTH}}|"
