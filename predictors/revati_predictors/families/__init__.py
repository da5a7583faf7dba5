"""The measured families: which columns make a configuration, which are axes, the roofline of a row, its features.

A `Family` is everything that is special about one kind of table; grid.py, train.py and learned.py work on any of them.
One file for each group of tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from revati_predictors.families import attention, comm, gemm, layers, mixed, mla, moe, quantise
from revati_predictors.families.base import Columns, Family, Key

__all__ = ["FAMILIES", "VARIANTS", "Columns", "Family", "Key", "variant_of"]

_GROUPS = (gemm, attention, moe, comm, quantise, mla, layers, mixed)
VARIANTS: dict[str, Family] = {f.name: f for group in _GROUPS for f in group.FAMILY_VARIANTS}

FAMILIES = tuple(dict.fromkeys(f.family for f in VARIANTS.values()))


def variant_of(family: str, header: Sequence[str]) -> Family | None:
    """The variant of a family whose columns the table has (a family can have tables of several kinds)."""
    names = set(header)
    for candidate in sorted((f for f in VARIANTS.values() if f.family == family), key=lambda f: -len(f.needed)):
        if set(candidate.needed) <= names:
            return candidate
    return None
