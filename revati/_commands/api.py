"""`revati api`: which CUDA symbols are implemented, recorded or unsupported."""

from __future__ import annotations

import argparse
import csv
import json
from importlib import resources
from typing import Any

from revati._errors import HostError
from revati._table import table

__all__ = ["STATUSES", "add", "load_symbols"]

STATUSES = ("implemented", "recorded", "unsupported")


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "api", help="list the CUDA surface", description="List the symbols of the virtual device and their state."
    )
    parser.add_argument("pattern", nargs="?", default="", help="only symbols that contain this text")
    parser.add_argument("--state", choices=STATUSES, help="only this state")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    symbols = [
        symbol
        for symbol in load_symbols()
        if arguments.pattern.lower() in symbol["name"].lower() and arguments.state in (None, symbol["status"])
    ]
    if arguments.json:
        print(json.dumps(symbols, indent=2))
        return 0
    columns = ("name", "library", "status", "since", "until")
    print(table(["symbol", *columns[1:]], [[symbol[column] for column in columns] for symbol in symbols]))
    print(", ".join(f"{sum(s['status'] == status for s in symbols)} {status}" for status in STATUSES))
    return 0


def load_symbols() -> list[dict[str, str]]:
    """The symbol tables as installed with this build, one dict of the CSV columns and `library` per symbol."""
    folder = resources.files("revati") / "data" / "api"
    if not folder.is_dir():
        raise HostError("the symbol tables are not part of this installation; run 'pip install .' again")
    symbols = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
            symbols.append({**row, "library": file.name.removesuffix(".csv")})
    return symbols
