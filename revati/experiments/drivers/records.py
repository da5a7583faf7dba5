"""The line that a driver writes for each finished request; one form for all drivers.

Times are virtual nanoseconds after the start of the load. A file of such lines is a valid partial result at any
moment: every line is handed to the operating system as soon as its request is finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from revati import UsageError

__all__ = ["RequestRecord", "read_records"]


@dataclass
class RequestRecord:
    """One request as the client saw it."""

    id: str  # class/session/call
    klass: str
    session: int
    call: int
    planned_ns: int  # when it was due: its arrival, or the end of the call before it plus the wait
    sent_ns: int  # just before the request was handed to the HTTP library
    input_tokens: int  # asked for
    output_tokens_asked: int
    token_ns: list[int] = field(default_factory=list)  # arrival of each piece of the answer that carried tokens
    token_counts: list[int] = field(default_factory=list)  # tokens in each of them
    end_ns: int = 0  # the answer's stream was closed, or the failure seen
    prompt_tokens: int | None = None  # as the server counted
    output_tokens: int = 0  # received
    cached_tokens: int | None = None
    finish_reason: str | None = None
    status: int | None = None
    error: str | None = None
    coarse: bool = False  # only the first and the last token's times are known: no gaps, no deadlines
    synthetic_history: bool = False  # the history of the session was filled up with made-up answers

    def line(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    @property
    def ok(self) -> bool:
        return self.error is None and self.output_tokens > 0


def read_records(path: Path) -> Iterator[RequestRecord]:
    """Records of a file; a torn last line (the machine went down) is left out, other damage is an error."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.endswith(b"\n"):
                return
            try:
                row: dict[str, Any] = json.loads(raw)
                yield RequestRecord(**row)
            except (ValueError, TypeError) as error:
                raise UsageError(f"{path}:{number}: not a request record: {error}") from None
