"""Builds the preload library: plain C, no Python symbol, so that it loads into sh, gcc and ptxas.

`python csrc/build.py OUT.so [--flags=...]`; setup.py calls `build_preload` for the wheel.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SOURCE_DIRS = ("time", "device", "generated")
CFLAGS = "-std=gnu11 -O2 -g -fPIC -fvisibility=hidden -ftls-model=initial-exec -Wall -Wextra -Wno-unused-parameter"
# The library takes the driver's SONAME so that DT_NEEDED libcuda.so.1 of framework libraries is satisfied by it.
LDFLAGS = "-shared -Wl,-soname,libcuda.so.1 -Wl,-z,defs -Wl,-z,now -Wl,--no-undefined"


class BuildError(RuntimeError):
    """The C compiler is missing or refused a source file."""


def compiler() -> list[str]:
    return shlex.split(sysconfig.get_config_var("CC") or "cc")[:1] or ["cc"]


def run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BuildError(f"no C compiler: '{command[0]}' was not found; install gcc or clang, or set CC") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr}")
    if done.stderr:
        sys.stderr.write(done.stderr)


def sources() -> list[Path]:
    return sorted(path for folder in SOURCE_DIRS for path in (ROOT / folder).glob("*.c"))


def build_preload(target: Path, build_dir: Path, extra: list[str] | None = None) -> Path:
    """Compiles every source of SOURCE_DIRS that is older than its object and links `target`."""
    build_dir.mkdir(parents=True, exist_ok=True)
    newest_header = max(p.stat().st_mtime for p in ROOT.rglob("*.h"))
    flags = [*shlex.split(CFLAGS), f"-I{ROOT / 'include'}", f"-I{ROOT}", *(extra or [])]

    def compile_one(source: Path) -> Path:
        obj = build_dir / f"{source.parent.name}_{source.stem}.o"
        if not obj.exists() or obj.stat().st_mtime < max(source.stat().st_mtime, newest_header):
            run([*compiler(), *flags, "-c", str(source), "-o", str(obj)])
        return obj

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources()))
    target.parent.mkdir(parents=True, exist_ok=True)
    link = [*shlex.split(LDFLAGS), *(extra or [])]
    version_script = ROOT / "generated" / "exports.map"
    if version_script.exists():
        link.append(f"-Wl,--version-script={version_script}")
    run([*compiler(), *link, *map(str, objects), "-o", str(target), "-ldl", "-lpthread", "-lm"])
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--build-dir", type=Path, default=Path("build/preload"))
    parser.add_argument("--flags", default="")
    args = parser.parse_args()
    try:
        build_preload(args.target, args.build_dir, shlex.split(args.flags))
    except BuildError as error:
        sys.exit(str(error))
