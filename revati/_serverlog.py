"""What a server's log says about its end: the errors it raised, else its last lines."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["explain"]

_ERROR = re.compile(r"(?:^|\s)((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .*)$")
_ERRORS_MAX = 4
_TAIL_LINES = 12
_READ_BYTES = 1 << 20


def explain(path: Path) -> str:
    """Indented lines for an error message: each error once, in order, and where the whole log is.

    The first error is as a rule the cause; what a program says last is often only that another part has failed.
    """
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - _READ_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return f"  (no log at {path})"
    errors = list(dict.fromkeys(match.group(1) for line in lines if (match := _ERROR.search(line))))
    said = errors[:_ERRORS_MAX] or lines[-_TAIL_LINES:]
    return "\n".join(["  " + line for line in said] + [f"  (all of it: {path})"])
