"""`revati api`: which CUDA symbols are implemented, recorded or unsupported."""

from __future__ import annotations

import argparse
import json
from importlib import resources
from typing import Any

from revati._errors import HostError
from revati._table import table

__all__ = ["add"]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "api", help="list the CUDA surface", description="List the symbols of the virtual device and their state."
    )
    parser.add_argument("pattern", nargs="?", default="", help="only symbols that contain this text")
    parser.add_argument("--state", choices=("implemented", "recorded", "unsupported"), help="only this state")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    symbols = [
        symbol
        for symbol in load_symbols()
        if arguments.pattern.lower() in symbol["name"].lower() and arguments.state in (None, symbol["state"])
    ]
    if arguments.json:
        print(json.dumps(symbols, indent=2))
        return 0
    print(table(["symbol", "library", "state", "since"], [[s[k] for k in ("name", "library", "state", "since")] for s in symbols]))
    counts = {state: sum(s["state"] == state for s in symbols) for state in ("implemented", "recorded", "unsupported")}
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return 0


def load_symbols() -> list[dict[str, str]]:
    """The symbol table as installed with this build."""
    file = resources.files("revati") / "data" / "api.json"
    if not file.is_file():
        raise HostError("the symbol table is not part of this installation; run 'pip install .' again")
    return list(json.loads(file.read_text(encoding="utf-8")))
