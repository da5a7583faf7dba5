"""From measured tables to a pack: hands the dataset to revati_predictors, which owns models and packs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from revati._errors import UsageError

__all__ = ["train_pack"]


def train_pack(tables: Path, out: Path, **options: Any) -> Any:
    """Trains a pack from `tables` (made by dataset.write_tables) into `out` and returns what the trainer reports.

    Raises UsageError if this installation has no trainer, or the tables have no manifest.
    """
    if not (tables / "manifest.json").exists():
        raise UsageError(f"{tables} is no dataset: no manifest.json; make one with `revati calibrate export`")
    try:
        trainer = importlib.import_module("revati_predictors.train")
    except ImportError as problem:
        raise UsageError(f"training needs revati[calibrate] ({problem})") from None
    function = getattr(trainer, "train_measured", None)
    if function is None:
        raise UsageError("this version of revati_predictors cannot train on measured tables")
    return function(tables, out, **options)
