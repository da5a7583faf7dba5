"""The environment of an emulated program, and the directory of driver library names."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from revati._errors import HostError
from revati._hostcheck import preload_library

__all__ = ["DRIVER_NAMES", "driver_name_directory", "run_environment"]

# Names by which programs open NVIDIA's driver libraries; all of them are the preload library.
DRIVER_NAMES = ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-ml.so")

# One thread per pool: more only make the proof of quiescence dearer, and OpenBLAS's pool spins (docs/limitations.md).
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")


def driver_name_directory() -> Path:
    """A directory with the driver libraries' names; its path is stable, because compiler caches remember it.

    Beside the preload library if that is writable, else in the user's cache.
    """
    library = preload_library()
    beside = library.parent / "cuda"
    key = hashlib.sha256(os.fsencode(library)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "revati" / f"cuda-{key}"
    for folder in (beside, cache):
        with contextlib.suppress(OSError):
            _link_names(folder, library)
            return folder
    raise HostError(f"neither {beside} nor {cache} can be written; one of them must hold the driver library names")


def _link_names(folder: Path, library: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in DRIVER_NAMES:
        link = folder / name
        if link.is_symlink() and os.readlink(link) == str(library):
            continue
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.symlink_to(library)
        temporary.replace(link)


def run_environment(base: Mapping[str, str], argv: Sequence[str]) -> dict[str, str]:
    """`base` with what an emulated `argv` needs; what the user set stays. LD_PRELOAD and the page come at the spawn."""
    from revati.frameworks import recipe_environment, recipe_path

    folder = str(driver_name_directory())
    env = dict(base)
    old = env.get("LD_LIBRARY_PATH")
    env["LD_LIBRARY_PATH"] = f"{folder}:{old}" if old else folder
    env["TRITON_LIBCUDA_PATH"] = folder
    defaults = {name: "1" for name in ONE_THREAD} | {"PYTHONHASHSEED": "0"}
    for name, value in {**defaults, **recipe_environment(argv)}.items():
        env.setdefault(name, value)
    tools = recipe_path(argv)
    if tools is not None and tools not in env.get("PATH", "").split(os.pathsep):
        env["PATH"] = os.pathsep.join(filter(None, [tools, env.get("PATH")]))
    return env
