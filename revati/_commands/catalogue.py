"""`revati gpus`: the device catalogue."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from revati._catalogue import MIB, gpu_keys, load_gpu, sources
from revati._table import table

__all__ = ["add"]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("gpus", help="list the virtual GPUs", description="List the virtual GPUs.")
    parser.add_argument("name", nargs="?", help="show everything about one GPU")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--sources", action="store_true", help="where the numbers come from")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.sources:
        print(table(["source", "what it is"], [[key, text] for key, text in sources().items()]))
    elif arguments.json:
        gpus = [load_gpu(key) for key in ([arguments.name] if arguments.name else gpu_keys())]
        print(json.dumps([dataclasses.asdict(gpu) for gpu in gpus], indent=2))
    elif arguments.name:
        gpu = load_gpu(arguments.name)
        for name, value in dataclasses.asdict(gpu).items():
            print(f"{name:20} {value}")
    else:
        rows = []
        for gpu in map(load_gpu, gpu_keys()):
            capability = ".".join(map(str, gpu.compute_capability))
            memory = f"{gpu.total_bytes / MIB / 1024:.1f} GiB"
            rows.append(
                [gpu.key, gpu.name, capability, str(gpu.sm_count), memory, gpu.topology, ", ".join(gpu.aliases)]
            )
        print(table(["key", "name", "cc", "SMs", "memory", "topology", "also"], rows))
    return 0
