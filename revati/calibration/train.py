"""From measured tables to a pack: hands the dataset to revati_predictors, which owns models and packs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revati._errors import UsageError

__all__ = ["train_pack"]


def train_pack(tables: Path, out: Path, base: Path | None = None, only: Sequence[str] = ()) -> list[str]:
    """Trains the measured families into OUT/<gpu>/ and returns a line per section.

    `base` is a folder of packs (default: the installed ones): families that were not measured come from its pack of the
    same GPU, unchanged. Raises UsageError if this installation cannot train, or `tables` is no measured dataset.
    """
    conditions_path = tables / "conditions.json"
    if not conditions_path.exists():
        raise UsageError(f"{tables} is no dataset: no conditions.json; make one with `revati calibrate export`")
    try:
        from revati_predictors.build import train_all
        from revati_predictors.packs import MANIFEST, packs_root
    except ImportError as problem:
        raise UsageError(f"training needs revati[calibrate] ({problem})") from None
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; name a new folder for the pack")
    measured = json.loads(conditions_path.read_text())
    try:
        results = train_all(tables, out, workers=1, only=only, say=lambda *args, **kwargs: None)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    keys = sorted({r["gpu"] for r in results})
    for path in [p for p in out.iterdir() if p.is_dir() and p.name not in keys]:
        shutil.rmtree(path)  # manifests of other GPUs, which this dataset says nothing about
    for key in keys:
        _complete(out / key, (base or packs_root()) / key, MANIFEST, measured["conditions"])
    lines = []
    for result in results:
        entry = result["entry"]
        lines.append(f"{result['gpu']}/{entry['file']}: {entry['rows']} rows, {entry['held_out'].get('random', {})}")
    return lines


def _complete(pack: Path, base: Path, manifest_name: str, conditions: dict[str, Any]) -> None:
    """Writes the measuring conditions into the pack's manifest and takes over what it lacks from the base pack."""
    path = pack / manifest_name
    manifest = json.loads(path.read_text())
    gpu = conditions["gpu"]
    manifest.update(
        driver=gpu["driver"],
        clock_policy=f"as found: {json.dumps(gpu['clocks'], sort_keys=True)}",
        measured={"versions": conditions["versions"], "first": conditions["first"], "last": conditions["last"]},
    )
    covered = {s["variant"] for s in manifest["sections"]}
    if (base / manifest_name).exists():
        for section in json.loads((base / manifest_name).read_text())["sections"]:
            if section["variant"] not in covered:
                shutil.copyfile(base / section["file"], pack / section["file"])
                manifest["sections"].append(section)
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
