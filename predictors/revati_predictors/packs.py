"""Model packs: a directory for each GPU with trained sections and a manifest that says what they are.

packs/<gpu>/manifest.json   GPU, conditions, and for each section framework, version, rows, licence, held-out errors,
                            coverage box, SHA-256. Without tables: the GPU from which it borrows.
packs/<gpu>/*.sec           sections (learned.Section.to_bytes)

A file without its manifest entry, or whose hash differs, is not loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from revati_predictors.gpus import Gpu, find_gpu
from revati_predictors.learned import Section

__all__ = ["MANIFEST", "Pack", "PackError", "SectionEntry", "installed_packs", "load_pack", "packs_root"]

MANIFEST = "manifest.json"
PACK_FORMAT = 1


class PackError(ValueError):
    """A pack that cannot be used; the message names the file and the way out."""


@dataclass(frozen=True)
class SectionEntry:
    """One section as the manifest describes it."""

    file: str
    sha256: str
    variant: str
    family: str
    framework: str
    version: str
    rows: int
    eager_dtypes: tuple[str, ...]
    raw: dict[str, Any]


def packs_root() -> Path:
    """Where packs are: the directory named by REVATI_PACKS, else those of this installation."""
    return Path(os.environ.get("REVATI_PACKS") or Path(__file__).parent / "packs")


def version_key(version: str) -> tuple[int, ...]:
    """Numbers of a version, for nearness: 0.24.0 -> (0, 24, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


class Pack:
    """The sections of one GPU, loaded and checked one by one when first needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / MANIFEST
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise PackError(
                f"{directory}: no {MANIFEST}, so the pack is not loaded; train it again with scripts/train-packs"
            ) from None
        except (OSError, json.JSONDecodeError) as error:
            raise PackError(f"{path}: cannot be read: {error}") from None
        if self.manifest.get("format") != PACK_FORMAT:
            raise PackError(
                f"{path}: pack format {self.manifest.get('format')}, this version reads {PACK_FORMAT}; "
                f"train it again with scripts/train-packs"
            )
        try:
            self.gpu: Gpu = find_gpu(self.manifest["gpu"])
            self.transfer_from: str | None = self.manifest.get("transfer_from")
            self.entries = [
                SectionEntry(
                    e["file"],
                    e["sha256"],
                    e["variant"],
                    e["family"],
                    e["framework"],
                    e["version"],
                    e["rows"],
                    tuple(e.get("eager_dtypes", ())),
                    e,
                )
                for e in self.manifest["sections"]
            ]
        except (KeyError, TypeError) as error:
            raise PackError(f"{path}: the manifest lacks {error}") from None
        self._loaded: dict[str, Section] = {}

    def section(self, entry: SectionEntry) -> Section:
        """The loaded section. Raises PackError if its file is missing or is not the one of the manifest."""
        if entry.file not in self._loaded:
            path = self.directory / entry.file
            try:
                data = path.read_bytes()
            except OSError as error:
                raise PackError(f"{path}: cannot be read: {error.strerror}") from None
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise PackError(
                    f"{path}: its SHA-256 differs from the manifest's, so it is not loaded; install the pack "
                    f"again or train it with scripts/train-packs"
                )
            try:
                self._loaded[entry.file] = Section.from_bytes(data, self.gpu)
            except (ValueError, KeyError, EOFError) as error:
                raise PackError(f"{path}: is not a readable section: {error}") from None
        return self._loaded[entry.file]

    def candidates(self, variant: str, framework: str, version: str) -> list[SectionEntry]:
        """The variant's sections, the best match of framework and version first."""
        wanted = version_key(version)

        def distance(entry: SectionEntry) -> tuple[Any, ...]:
            have = version_key(entry.version)
            steps = [abs(a - b) for a, b in zip(have, wanted)] if wanted else [-v for v in have]
            return (
                entry.framework != framework,
                entry.framework != "vllm",
                entry.version != version,
                steps,
                entry.file,
            )

        return sorted((e for e in self.entries if e.variant == variant), key=distance)


@lru_cache(maxsize=32)
def load_pack(gpu: str, root: Path | None = None) -> Pack | None:
    """The pack of a GPU, or None if none is installed. Raises PackError for a broken one."""
    directory = (root or packs_root()) / find_gpu(gpu).key
    return Pack(directory) if directory.is_dir() else None


def installed_packs(root: Path | None = None) -> list[Pack]:
    """Every installed pack. Raises PackError for a broken one."""
    base = root or packs_root()
    found = sorted(d for d in base.iterdir() if d.is_dir() and not d.name.startswith(".")) if base.is_dir() else []
    return [Pack(d) for d in found]
