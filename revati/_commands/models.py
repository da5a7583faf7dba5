"""`revati models`: public configurations, and directories that a framework can load."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from revati._table import table
from revati.models import load_model, model_keys, write_model

__all__ = ["add"]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "models",
        help="list public model configurations, or write one as a model directory",
        description="Without arguments: list the configurations. 'write NAME DIR' makes a model directory with a "
        "synthetic tokenizer; serve it with --load-format dummy.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    write = actions.add_parser("write", help="write a model directory")
    write.add_argument("model", metavar="NAME")
    write.add_argument("folder", metavar="DIR", type=Path)
    show = actions.add_parser("show", help="print a config.json")
    show.add_argument("model", metavar="NAME")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.action == "write":
        model = write_model(arguments.model, arguments.folder)
        print(f"{model.description}: wrote {arguments.folder}; serve it with --load-format dummy")
    elif arguments.action == "show":
        print(json.dumps(load_model(arguments.model).config, indent=2, sort_keys=True))
    else:
        rows = []
        for model in map(load_model, model_keys()):
            size = f"{model.parameters / 1e9:.1f} B"
            rows.append([model.key, size, str(model.config["vocab_size"]), model.description, model.source])
        print(table(["key", "parameters", "vocabulary", "what", "source"], rows, right=(1, 2)))
    return 0
