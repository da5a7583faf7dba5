"""Writes the reference table into docs/case-format.md: `python -m revati.experiments.case_docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from revati.experiments.case import CASE_FORM
from revati.experiments.schema import markdown

__all__ = ["main"]

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main(arguments: list[str]) -> int:
    """Replaces what is between the two marks of the page."""
    path = Path(arguments[0]) if arguments else Path(__file__).parents[2] / "docs" / "case-format.md"
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *markdown(CASE_FORM)])
    path.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
