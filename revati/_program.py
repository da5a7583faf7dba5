"""Can this program run under the preload library? Found out before it starts, so that the answer is one sentence."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from revati._errors import HostError, UsageError

__all__ = ["check_program", "find_program"]

_PT_INTERP = 3
_MAX_SHEBANGS = 4


def find_program(name: str, env: Mapping[str, str]) -> str:
    """The absolute path of a command: PATH first, then beside this Python. Raises UsageError."""
    if "/" in name:
        found = name if os.path.exists(name) else None
        if found is None:
            raise UsageError(f"command not found: {name}")
        if not os.access(name, os.X_OK) or os.path.isdir(name):
            raise UsageError(f"{name} is not an executable program")
        return os.path.abspath(name)
    path = env.get("PATH", os.defpath)
    found = shutil.which(name, path=path) or shutil.which(name, path=os.path.dirname(sys.executable))
    if found is None:
        raise UsageError(f"command not found: {name}")
    return os.path.abspath(found)


def check_program(path: str, env: Mapping[str, str]) -> None:
    """Raises HostError when the dynamic loader would not take the preload library into the program."""
    for _ in range(_MAX_SHEBANGS):
        with open(path, "rb") as file:
            head = file.read(256)
        _check_privileges(path)
        if not head.startswith(b"#!"):
            break
        words = head[2:].split(b"\n", 1)[0].split()
        if not words:
            raise UsageError(f"{path} has an empty interpreter line")
        interpreter = os.fsdecode(words[0])
        if os.path.basename(interpreter) == "env" and len(words) > 1:
            target = next((os.fsdecode(w) for w in words[1:] if not w.startswith(b"-")), interpreter)
            interpreter = find_program(target, env)
        if not os.path.exists(interpreter):
            raise UsageError(f"{path} wants the interpreter {interpreter}, which does not exist")
        path = interpreter
    if head[:4] == b"\x7fELF":
        _check_elf(path)


def _check_privileges(path: str) -> None:
    mode = os.stat(path).st_mode
    if mode & (stat.S_ISUID | stat.S_ISGID):
        raise HostError(
            f"{path} is setuid or setgid: the loader ignores LD_PRELOAD for it; run the program behind it directly"
        )
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        return
    raise HostError(f"{path} has file capabilities: the loader ignores LD_PRELOAD for it; run a copy without them")


def _check_elf(path: str) -> None:
    with open(path, "rb") as file:
        header = file.read(64)
        if header[4] != 2:
            raise HostError(f"{path} is a 32-bit program; the preload library is 64-bit")
        machine = struct.unpack_from("<H", header, 18)[0]
        if machine != _own_machine():
            raise HostError(f"{path} is built for another processor than this machine")
        offset, entry_bytes, count = (
            struct.unpack_from("<Q", header, 32)[0],
            struct.unpack_from("<H", header, 54)[0],
            struct.unpack_from("<H", header, 56)[0],
        )
        for index in range(count):
            file.seek(offset + index * entry_bytes)
            if struct.unpack("<I", file.read(4))[0] == _PT_INTERP:
                return
    raise HostError(
        f"{path} is statically linked: no library can be preloaded into it; use a dynamically linked build, "
        "or let it join the clock over gRPC (docs/internals.md, Clock service)"
    )


def _own_machine() -> int:
    with open(os.path.realpath(sys.executable), "rb") as file:
        return int(struct.unpack_from("<H", file.read(20), 18)[0])


def check_model_directory(path: str) -> None:
    """Raises UsageError when a local model directory cannot be one."""
    folder = Path(path)
    local = folder.exists() or path.startswith(("/", "./", "../", "~"))
    if not local:
        return
    if not folder.is_dir():
        raise UsageError(f"model directory {path} does not exist; 'revati models write llama-3.1-8b DIR' makes one")
    if not (folder / "config.json").is_file() and not (folder / "params.json").is_file():
        raise UsageError(f"model directory {path} has no config.json; 'revati models write llama-3.1-8b DIR' makes one")
