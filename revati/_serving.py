"""Reads the few arguments of a serving command that Revati checks beforehand: model, host and port."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Serving", "serving_command"]

DEFAULT_PORTS = {"vllm": 8000, "sglang": 30000}


@dataclass(frozen=True)
class Serving:
    """A server that a command line starts; `port` is None when the framework chooses a free one."""

    framework: str
    model: str | None
    host: str
    port: int | None


def _option(arguments: Sequence[str], *names: str) -> str | None:
    for index, word in enumerate(arguments):
        for name in names:
            if word == name and index + 1 < len(arguments):
                return arguments[index + 1]
            if word.startswith(name + "="):
                return word[len(name) + 1 :]
    return None


def serving_command(argv: Sequence[str]) -> Serving | None:
    """What `vllm serve`, `sglang serve` and their `python -m` forms will do; None for anything else.

    Also behind `revati record ... --`.
    """
    words = list(argv)
    if os.path.basename(words[0]) == "revati" and words[1:2] == ["record"] and "--" in words[:-1]:
        words = words[words.index("--") + 1 :]
    framework = os.path.basename(words[0])
    rest = words[1:]
    if framework.startswith("python") and rest[:1] == ["-m"] and len(rest) > 1:
        module, rest = rest[1], rest[2:]
        modules = {"vllm.entrypoints.openai.api_server": "vllm", "sglang.launch_server": "sglang"}
        if module not in modules:
            return None
        framework = modules[module]
    elif framework in DEFAULT_PORTS and rest[:1] == ["serve"]:
        rest = rest[1:]
    else:
        return None
    positional = rest[0] if rest and not rest[0].startswith("-") else None
    model = _option(rest, "--model", "--model-path") or positional
    port = _option(rest, "--port")
    host = _option(rest, "--host") or "127.0.0.1"
    number = int(port) if port is not None and port.isdigit() else (DEFAULT_PORTS[framework] if port is None else None)
    return Serving(framework, model, host if host not in ("localhost", "") else "127.0.0.1", number or None)
