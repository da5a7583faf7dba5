"""Under which conditions rows are measured: versions, GPU, clock settings, command. One place, so that all files
agree.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from typing import Any

from revati.calibration.measure.nvml import Nvml

__all__ = ["NoGpuError", "open_nvml", "session_facts", "version_of"]


class NoGpuError(RuntimeError):
    """There is no GPU here, and no dry run was asked for."""


def version_of(distribution: str) -> str:
    """The installed version of a distribution, or "" if it is not here."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def open_nvml(dry: bool) -> Nvml | None:
    """The GPU's NVML handle; None in a dry run without one. Raises NoGpuError for a real run without a GPU."""
    try:
        return Nvml(int(os.environ.get("REVATI_GPU_INDEX", "0")))
    except (OSError, RuntimeError) as problem:
        if dry:
            return None
        raise NoGpuError(f"no GPU to measure ({problem}); add --dry-run to try the code without one") from None


def session_facts(nvml: Nvml | None) -> dict[str, Any]:
    """What opens a result file: everything that stays the same while a program runs."""
    packages = ("torch", "triton", "vllm", "flashinfer-python", "transformers", "numpy")
    facts: dict[str, Any] = {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "versions": {name: version_of(name) for name in packages if version_of(name)},
        # The same scripts run under emulation; what they measure there must never be taken for a card's.
        "emulated": "librevati.so" in os.environ.get("LD_PRELOAD", ""),
        "gpu": nvml.identity() if nvml else {"name": "none (dry run)", "uuid": "", "driver": "", "clocks": {}},
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["versions"]["torch"] = torch.__version__
        facts["versions"]["cuda"] = torch.version.cuda or ""
        if torch.cuda.is_available():
            facts["versions"]["cudnn"] = torch.backends.cudnn.version()
    return facts


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return ""
