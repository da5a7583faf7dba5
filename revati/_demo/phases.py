"""Which phase a starting vLLM server is in, read from its log."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["PHASES", "LogFollower", "Progress"]

# In order of appearance; the first line that matches starts the phase. Several vLLM versions' wordings.
PHASES: tuple[tuple[str, str], ...] = (
    ("imports", r"^"),
    ("engine start", r"Initializing a V1 LLM engine"),
    ("model load", r"Starting to load model|Loading (?:model|weights)"),
    ("compile", r"Start compiling|Dynamo bytecode transform|Compiling a graph|Directly load the compiled"),
    ("kernels", r"GPU KV cache size"),
    ("graph capture", r"Capturing CUDA graphs"),
    ("server start", r"init engine .* took|Starting vLLM (?:API )?server|Started server process"),
    ("ready", r"Application startup complete"),
)
_TQDM = re.compile(r"(\d+)/(\d+) \[")


class LogFollower:
    """Reads what was appended to a file since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> str:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return ""
        self._offset += len(data)
        return data.decode(errors="replace")


class Progress:
    """Phases only go forward: a later phase's line never brings an earlier one back."""

    def __init__(self) -> None:
        self.number = 0
        self.done = 0
        self.total = 0
        self.kv_cache = ""

    @property
    def phase(self) -> str:
        return PHASES[self.number][0]

    @property
    def ready(self) -> bool:
        return self.number == len(PHASES) - 1

    def server(self, text: str) -> None:
        """Takes new log text of the server."""
        for line in text.splitlines():
            for number in range(len(PHASES) - 1, self.number, -1):
                if re.search(PHASES[number][1], line):
                    self.number = number
                    break
            match = re.search(r"GPU KV cache size: ([\d,]+ tokens)", line)
            if match:
                self.kv_cache = match.group(1)

    def client(self, text: str) -> bool:
        """Takes new output of the load generator; True once it has begun to send."""
        for match in _TQDM.finditer(text):
            self.done, self.total = int(match.group(1)), int(match.group(2))
        return self.total > 0
