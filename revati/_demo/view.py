"""The live view: one line that is redrawn on a terminal, one line per phase elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["View"]

QUIET_S = 10.0  # not on a terminal: say something at least this often


class View:
    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._last = ""
        self._said = 0.0
        self._phase = ""
        self._began = time.monotonic()
        self.phase_s: dict[str, float] = {}

    def show(self, phase: str, detail: str) -> None:
        """Shows the present state; a change of phase leaves a finished line with its real duration behind."""
        now = time.monotonic()
        if phase != self._phase:
            self.end()
            self._phase, self._began, self._said = phase, now, 0.0
        line = f"{phase:15} {now - self._began:6.1f} s  {detail}"
        if self._live:
            self._stream.write("\r\x1b[K" + line[:160])
            self._stream.flush()
        elif now - self._said >= QUIET_S:
            self._stream.write(line + "\n")
            self._stream.flush()
            self._said = now
        self._last = line

    def end(self) -> None:
        """Closes the present phase."""
        if not self._phase:
            return
        self.phase_s[self._phase] = self.phase_s.get(self._phase, 0.0) + time.monotonic() - self._began
        if self._live:
            self._stream.write("\r\x1b[K")
        self._stream.write(self._last + "\n")
        self._stream.flush()
        self._said = time.monotonic()
        self._phase = ""
