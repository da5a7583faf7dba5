"""The `revati` command: a parser per module of revati/_commands, errors as one sentence with a fixed exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from revati._commands import COMMANDS
from revati._errors import RevatiError
from revati._version import __version__

__all__ = ["build_parser", "main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"revati: {message} (see '{self.prog} --help')\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="revati",
        description="Run unmodified GPU programs on a virtual GPU in virtual time.",
        epilog="Start with: revati doctor, then revati run --gpu h100-sxm -- COMMAND",
    )
    parser.add_argument("--version", action="version", version=f"revati {__version__}")
    subparsers = parser.add_subparsers(dest="name", metavar="COMMAND", required=True, parser_class=_Parser)
    for add in COMMANDS:
        add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; 130 after Ctrl-C."""
    try:
        arguments = build_parser().parse_args(argv)
        return int(arguments.run(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except RevatiError as error:
        sys.stderr.write(f"revati: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (head, a closed pager): not an error worth a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
