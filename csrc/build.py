"""Builds the preload libraries: plain C, no Python symbol, so that they load into sh, gcc and ptxas.

`python csrc/build.py OUT.so [--flags=...]` builds the virtual device and clock, `--record` the recorder; setup.py calls
`build_preload` and `build_recorder` for the wheel.
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
LDFLAGS = "-shared -Wl,-soname,{soname} -Wl,-z,defs -Wl,-z,now -Wl,--no-undefined"


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


def build_library(target: Path, build_dir: Path, sources: list[Path], soname: str, extra: list[str]) -> Path:
    """Compiles every source that is older than its object and links `target`."""
    build_dir.mkdir(parents=True, exist_ok=True)
    newest_header = max(p.stat().st_mtime for p in ROOT.rglob("*.h"))
    flags = [*shlex.split(CFLAGS), f"-I{ROOT / 'include'}", f"-I{ROOT}", *extra]

    def compile_one(source: Path) -> Path:
        obj = build_dir / f"{source.parent.name}_{source.stem}.o"
        if not obj.exists() or obj.stat().st_mtime < max(source.stat().st_mtime, newest_header):
            run([*compiler(), *flags, "-c", str(source), "-o", str(obj)])
        return obj

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    target.parent.mkdir(parents=True, exist_ok=True)
    link = [*shlex.split(LDFLAGS.format(soname=soname)), *extra]
    run([*compiler(), *link, *map(str, objects), "-o", str(target), "-ldl", "-lpthread", "-lm"])
    return target


def build_preload(target: Path, build_dir: Path, extra: list[str] | None = None) -> Path:
    """The virtual device and the clock: every source of SOURCE_DIRS."""
    sources = sorted(path for folder in SOURCE_DIRS for path in (ROOT / folder).glob("*.c"))
    return build_library(target, build_dir, sources, "libcuda.so.1", extra or [])


def build_recorder(target: Path, build_dir: Path, extra: list[str] | None = None) -> Path:
    """The recorder, with the descriptions of operators that it shares with the virtual device."""
    sources = [*sorted((ROOT / "record").glob("*.c")), ROOT / "device" / "describe.c"]
    return build_library(target, build_dir, sources, "librevati_record.so", extra or [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--build-dir", type=Path, default=Path("build/preload"))
    parser.add_argument("--flags", default="")
    parser.add_argument("--record", action="store_true", help="build the recorder instead")
    args = parser.parse_args()
    try:
        build = build_recorder if args.record else build_preload
        build(args.target, args.build_dir, shlex.split(args.flags))
    except BuildError as error:
        sys.exit(str(error))
