"""The Python environment that a command starts in, found from its path alone (it may not be ours)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProgramEnvironment"]


@dataclass(frozen=True)
class ProgramEnvironment:
    """`bin_dir` holds its console scripts, `site` is its site-packages directory."""

    bin_dir: Path
    site: Path

    @classmethod
    def of(cls, program: str) -> ProgramEnvironment | None:
        """The environment of an interpreter or console script, or None for a program without one."""
        found = shutil.which(program)
        if found is None:
            return None
        for bin_dir in _candidates(Path(found)):
            for site in sorted(bin_dir.parent.glob("lib/python3*/site-packages")):
                return cls(bin_dir, site)
        return None

    def has(self, package: str) -> bool:
        return (self.site / package / "__init__.py").exists()

    def cuda_home(self) -> Path | None:
        """The tool chain that came as wheels (nvidia/cu13), or None."""
        for folder in sorted(self.site.glob("nvidia/cu*"), reverse=True):
            if (folder / "bin" / "nvcc").exists():
                return folder
        return None


def _candidates(program: Path) -> Iterator[Path]:
    """Directories whose parent may be a Python prefix: the program's own, its interpreter's, the active one's."""
    yield program.parent
    try:
        first = program.open("rb").readline(256)
    except OSError:
        first = b""
    if first.startswith(b"#!"):
        words = first[2:].decode(errors="replace").split()
        if words and os.path.basename(words[0]).startswith("python"):
            yield Path(words[0]).parent
    if "VIRTUAL_ENV" in os.environ:
        yield Path(os.environ["VIRTUAL_ENV"]) / "bin"
