"""What every family of measured tables shares: the `Family` record, columns as numbers, features without physics.

Columns are arrays by name; sizes are elements or tokens, times microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors.gpus import Gpu
from revati_predictors.grid import ConfigIndex

__all__ = [
    "Columns",
    "Family",
    "Floats",
    "Key",
    "Slot",
    "by_value",
    "code",
    "head_slots",
    "kv_bytes",
    "number",
    "per_dtype",
    "plain_physics",
]

Columns = Mapping[str, NDArray[Any]]

Floats = NDArray[np.float64]

Key = tuple[Any, ...]

# A slot: a configuration that resembles another, and the factor by which each axis value must be multiplied there.
Slot = tuple[Key, tuple[float, ...]]


@dataclass(frozen=True)
class Family:
    """One kind of measured table.

    config / axes: column names; a family without axes has no grid and is predicted from its features alone.
    extra: columns that the roofline or the features need besides. soft: text columns of the configuration for which
        the nearest known value will do (versions, kernels). text: columns that are not numbers.
    shape_ignores: columns that are measured together, so that a validation split must not separate them.
    far: axis factors of the smaller nodes from which a model continues the last axis; extend: nodes added there.
    edges_by_slots: nodes at the ends of a line, which nothing brackets, are better told from similar configurations.
    region: columns whose combinations are withheld as whole regions when the trainer validates.
    roofline_us, physics: from columns of rows. slots: neighbours of a configuration in order of usefulness, in groups;
        groups up to `strict_groups` stay available for a configuration of a withheld region (unseen heads).
    terms: microseconds of parts of the operator at the card's peaks [rows, terms]; a law, fitted on the table, says how
        much of each counts (see law.py). apart: features, from columns and terms, of what has no measured relatives (an
        unseen model); the learned part tells its duration relative to that law.
    mask_axis: an axis whose line is hidden in half of the training rows (an unseen (n, k) has no other m).
    """

    name: str
    family: str
    config: tuple[str, ...]
    axes: tuple[str, ...]
    roofline_us: Callable[[Gpu, Columns], Floats]
    physics: Callable[[Gpu, Columns], dict[str, Floats]]
    slots: Callable[[Key, ConfigIndex], list[Slot | None]] = lambda key, known: []
    strict_slots: int = 0
    mask_axis: int = -1
    time_columns: tuple[str, ...] = ("lat_us",)
    text: frozenset[str] = frozenset()
    soft: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    checked_dtypes: bool = True
    shape_ignores: tuple[str, ...] = ("dtype", "q_dtype", "kv_dtype", "distribution")
    region: tuple[str, ...] = ()
    edges_by_slots: bool = False
    far: tuple[tuple[float, ...], ...] = ()
    extend: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    terms: Callable[[Gpu, Columns], Floats] | None = None
    apart: Callable[[Gpu, Columns, Floats], dict[str, Floats]] | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that a table must have."""
        derived = _DERIVED if self.name == "attn_mixed" else ()
        return tuple(c for c in dict.fromkeys((*self.config, *self.axes, *self.extra)) if c not in derived)

    @property
    def shape_columns(self) -> tuple[str, ...]:
        """The columns of a shape: what is measured at once, and must not be parted by a validation split."""
        return tuple(c for c in (*self.config, *self.axes, *self.extra) if c not in self.shape_ignores)


_DERIVED = ("heads_q", "heads_kv", "head_dim")


def number(columns: Columns, name: str) -> Floats:
    return np.asarray(columns[name], float)


def by_value(columns: Columns, name: str, table: Callable[[str], float]) -> Floats:
    values = columns[name]
    distinct = {v: table(str(v)) for v in dict.fromkeys(values.tolist())}
    return np.array([distinct[v] for v in values.tolist()], float)


_CODES = {
    "bfloat16": 0,
    "float16": 0,
    "half": 0,
    "fp8": 1,
    "fp8_block": 2,
    "int8": 1,
    "nvfp4": 3,
    "int4_wo": 4,
    "w4a16_mxfp4": 5,
    "w4a8_mxfp4_mxfp8": 6,
}


def code(columns: Columns, name: str) -> Floats:
    return by_value(columns, name, lambda v: float(_CODES.get(v.lower(), 9)))


def per_dtype(columns: Columns, of: Callable[[str, NDArray[np.bool_]], Floats], rows: int) -> Floats:
    out = np.empty(rows)
    dtypes = columns["dtype"]
    for dtype in dict.fromkeys(dtypes.tolist()):
        chosen = dtypes == dtype
        out[chosen] = of(str(dtype), chosen)
    return out


def kv_bytes(columns: Columns) -> Floats:
    return by_value(columns, "kv_dtype", lambda v: 1.0 if v.startswith("fp8") else 2.0)


def plain_physics(*names: str) -> Callable[[Gpu, Columns], dict[str, Floats]]:
    def physics(gpu: Gpu, columns: Columns) -> dict[str, Floats]:
        del gpu
        return {f"log_{name}": np.log2(number(columns, name) + 1.0) for name in names}

    return physics


def head_slots(key: Key, known: ConfigIndex) -> list[Slot | None]:
    at = len(key) - 1
    found = (known.next_to(key, at, up) for up in (False, True))
    return [(f, (1.0,)) if f else None for f in found]
