"""What Revati knows about serving frameworks: launch recipes and read-only observers, and nothing else does.

A recipe is the environment a framework needs on a host without a GPU, and where it says that it is ready. Observers
are loaded by the framework itself, through its official plugin interface.
"""

from __future__ import annotations

from collections.abc import Sequence

from revati.frameworks import vllm
from revati.frameworks._program_env import ProgramEnvironment

__all__ = ["READY_PATHS", "recipe_environment", "recipe_path"]

READY_PATHS = {"vllm": vllm.READY_PATH, "sglang": "/health_generate"}


def recipe_environment(argv: Sequence[str]) -> dict[str, str]:
    """Variables for `argv`: those of every framework that is installed beside the program it starts."""
    program = ProgramEnvironment.of(argv[0]) if argv else None
    if program is None:
        return {}
    variables: dict[str, str] = {}
    if program.has("vllm"):
        variables |= vllm.environment(program)
    return variables


def recipe_path(argv: Sequence[str]) -> str | None:
    """The directory to put first on PATH: the tools (ninja) that the program's own environment brought, or None.

    Programs started by path rather than from an activated environment would find another ninja, or none, and another
    version rebuilds everything that is already in the kernel cache.
    """
    program = ProgramEnvironment.of(argv[0]) if argv else None
    return str(program.bin_dir) if program is not None and (program.bin_dir / "ninja").exists() else None
