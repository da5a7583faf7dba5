"""Result files of a measuring run: JSON lines, each written at once, so that a run can be cut at any byte and go on.

A folder holds one file per subject (`sweep.jsonl`, `facts.jsonl`, ...). A line has `kind`: "session" opens every
start of a program and carries what does not change while it runs (versions, GPU, clock settings, command); "row" is
one measurement and names its session; "error" is a cell that could not be measured, with the reason. A torn last
line is dropped on reading.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "RowWriter", "read_lines", "wall_clock"]

FORMAT = 1


def wall_clock() -> str:
    """The time of the host as ISO 8601 UTC; for records only, never for durations."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every complete line of a result file, in order; nothing if the file does not exist."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:  # a line torn by a kill and completed by the next start
                continue
            if isinstance(record, dict):
                yield record


class RowWriter:
    """Appends to one result file; `done` are the keys that earlier starts measured under the same conditions.

    A key measured dry is not done for a real run, and the other way round.
    """

    def __init__(self, path: Path, session: dict[str, Any], *, dry: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.dry = dry
        self.done: set[str] = set()
        for record in read_lines(path):
            if record.get("kind") in ("row", "error") and bool(record.get("dry")) == dry and not record.get("again"):
                self.done.add(str(record.get("key")))
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("ab", buffering=0)
        if torn:
            self._file.write(b"\n")
        self.session = f"{int(time.time() * 1000):x}-{os.getpid()}"
        self._write(
            {"kind": "session", "format": FORMAT, "session": self.session, "time": wall_clock(), "dry": dry, **session}
        )

    def row(self, key: str, values: dict[str, Any]) -> None:
        """Writes a measurement; it is on disk when this returns."""
        self._write(
            {"kind": "row", "key": key, "session": self.session, **({"dry": True} if self.dry else {}), **values}
        )
        self.done.add(key)

    def error(self, key: str, reason: str, *, again: bool = False) -> None:
        """Records that a cell cannot be measured here, so that a resumed run does not try it for ever.

        `again`: the reason may go away (a package that is not installed yet), so a later start tries once more.
        """
        record = {"kind": "error", "key": key, "session": self.session, "reason": " ".join(reason.split())[:300]}
        self._write({**record, **({"dry": True} if self.dry else {}), **({"again": True} if again else {})})
        self.done.add(key)

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        self._file.close()
