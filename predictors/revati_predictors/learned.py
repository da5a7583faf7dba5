"""One trained section: a completed table with its models, and how a row is predicted from them.

A section belongs to one variant of a family, one GPU and (where tables say so) one framework version. It answers for
    a node that was measured                    the measurement                          source measured
    a node that was not                         the completed value                      interpolated
    a size between nodes                        multilinear + learned residual           interpolated
    a size beyond the box, an unknown region    continued in time, or the region model   extrapolated
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revati_predictors import stack
from revati_predictors.boosting import Ensemble, Model
from revati_predictors.families import VARIANTS, Columns, Family, Key
from revati_predictors.gpus import Gpu
from revati_predictors.grid import ABSENT, Grid
from revati_predictors.predictor import EXTRAPOLATED, INTERPOLATED, MEASURED

__all__ = ["FORMAT", "MODES", "Section"]

Floats = NDArray[np.float64]
FORMAT = 1
MODES = ("size", "config", "physics")  # what a section has models for, besides the completed table
_SCALE = 4096.0  # y is stored as int16 in units of 1/4096
_WIDTH = 100.0  # a log width w is stored as the byte round(100 sqrt(w))
_MEASURED_WIDTH = 0.02


def encode_y(y: NDArray[Any]) -> NDArray[np.int16]:
    """log ratios as int16."""
    return np.asarray(np.clip(np.rint(np.nan_to_num(y, nan=0.0) * _SCALE), -32767, 32767), np.int16)


def encode_width(width: NDArray[Any]) -> NDArray[np.uint8]:
    """Log widths as bytes."""
    return np.asarray(np.clip(np.rint(np.sqrt(np.maximum(width, 0.0)) * _WIDTH), 1, 255), np.uint8)


def _decode_width(code: NDArray[np.uint8]) -> Floats:
    return np.asarray((code / _WIDTH) ** 2, float)


class Section:
    """See the module. `facts` is plain data: sizes, widths, held-out errors and the box that the rows cover."""

    def __init__(
        self,
        family: Family,
        gpu: Gpu,
        grid: Grid | None,
        flags: NDArray[np.uint8] | None,
        low: NDArray[np.uint8] | None,
        high: NDArray[np.uint8] | None,
        models: Mapping[str, Sequence[Model]],
        facts: dict[str, Any],
    ) -> None:
        self.family, self.gpu, self.grid, self.facts = family, gpu, grid, facts
        self.flags, self._low, self._high = flags, low, high
        self.models = {mode: list(many) for mode, many in models.items()}
        self._ensembles: dict[str, Ensemble] = {}
        self._by_hard: dict[Key, list[Key]] | None = None  # configurations that agree in every hard column
        self._slots = stack.Slots(family, grid) if grid else None

    # --- storage -------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The section as one compressed file; equal sections give equal bytes."""
        blobs: list[bytes] = []
        head: dict[str, Any] = {"format": FORMAT, "variant": self.family.name, "facts": self.facts, "models": {}}
        if self.grid is not None:
            assert self.flags is not None and self._low is not None and self._high is not None
            head["configs"] = [list(c) for c in self.grid.configs]
            head["axes"] = [a.tolist() for a in self.grid.axes]
            blobs += [encode_y(self.grid.y).tobytes(), self.flags.tobytes(), self._low.tobytes(), self._high.tobytes()]
        for mode in sorted(self.models):
            texts = [m.text.encode() for m in self.models[mode]]
            head["models"][mode] = [len(t) for t in texts]
            blobs += texts
        text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
        return lzma.compress(len(text).to_bytes(8, "little") + text + b"".join(blobs), preset=6)

    @classmethod
    def from_bytes(cls, data: bytes, gpu: Gpu) -> Section:
        """The section stored in these bytes. Raises ValueError if they are not one of this format."""
        raw = lzma.decompress(data)
        length = int.from_bytes(raw[:8], "little")
        head = json.loads(raw[8 : 8 + length])
        if head.get("format") != FORMAT or head.get("variant") not in VARIANTS:
            raise ValueError(f"section format {head.get('format')} of '{head.get('variant')}' is not readable here")
        family = VARIANTS[head["variant"]]
        at = 8 + length
        grid: Grid | None = None
        arrays: list[NDArray[np.uint8]] = []
        if "configs" in head:
            axes = [np.array(a, float) for a in head["axes"]]
            shape = (len(head["configs"]), *(len(a) for a in axes))
            size = int(np.prod(shape))
            y = (np.frombuffer(raw, np.int16, size, at).reshape(shape) / np.float32(_SCALE)).astype(np.float32)
            at += 2 * size
            for _ in range(3):
                arrays.append(np.frombuffer(raw, np.uint8, size, at).reshape(shape))
                at += size
            grid = Grid([tuple(c) for c in head["configs"]], axes, y)
        models: dict[str, list[Model]] = {}
        for mode in sorted(head["models"]):
            models[mode] = []
            for nbytes in head["models"][mode]:
                models[mode].append(Model(raw[at : at + nbytes].decode()))
                at += nbytes
        flags, low, high = arrays or (None, None, None)
        return cls(family, gpu, grid, flags, low, high, models, head["facts"])

    # --- prediction ----------------------------------------------------------------------------------------------

    def _settle(self, columns: Columns) -> tuple[Columns, NDArray[np.bool_]]:
        """(columns with soft ones at the nearest value that the table has, rows where that changed something)."""
        keys = stack.key_columns(self.family, columns)
        changed = np.zeros(len(keys), bool)
        if self.grid is None or not self.family.soft:
            return columns, changed
        known = self.grid.index
        moved = {key: self._nearest(key) for key in dict.fromkeys(keys) if key not in known}
        if not moved:
            return columns, changed
        settled = [moved.get(key, key) for key in keys]
        changed[:] = [new != old for new, old in zip(settled, keys)]
        out = dict(columns)
        for name in self.family.soft:
            i = self.family.config.index(name)
            out[name] = np.array([key[i] for key in settled], dtype=object if name in self.family.text else float)
        return out, changed

    def _nearest(self, key: Key) -> Key:
        """The known configuration that equals this one in every hard column and in most soft ones."""
        assert self.grid is not None
        soft = [self.family.config.index(c) for c in self.family.soft]
        hard = [i for i in range(len(key)) if i not in soft]
        if self._by_hard is None:
            self._by_hard = {}
            for other in self.grid.configs:
                self._by_hard.setdefault(tuple(other[i] for i in hard), []).append(other)
        best, best_score = key, -1
        for other in self._by_hard.get(tuple(key[i] for i in hard), ()):
            score = sum(
                _likeness(str(other[i]), str(key[i])) << (8 * (len(soft) - 1 - rank))
                for rank, i in enumerate(reversed(soft))
            )
            if score > best_score:
                best, best_score = other, score
        return best

    def predict(self, columns: Columns) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
        """(log ratio to the roofline, log width below, log width above, source) of rows."""
        n = len(next(iter(columns.values())))
        y, low, high = np.zeros(n), np.full(n, 0.7), np.full(n, 0.7)
        source = np.full(n, EXTRAPOLATED)
        if self.grid is None:
            self._from_model("physics", np.arange(n), columns, y, low, high)
            source[:] = INTERPOLATED
            return y, low, high, source
        columns, changed = self._settle(columns)
        config = self.grid.config_ids(stack.key_columns(self.family, columns))
        coordinates = [np.asarray(columns[a], float) for a in self.family.axes]
        nodes, exact = self.grid.nodes(coordinates)
        inside = np.ones(n, bool)
        for axis, values in zip(self.grid.axes, coordinates):
            inside &= (values >= axis[0]) & (values <= axis[-1])
        known = config != ABSENT
        direct = known & exact
        if direct.any():
            assert self.flags is not None and self._low is not None and self._high is not None
            where = (config[direct], *(i[direct] for i in nodes))
            flag = self.flags[where]
            y[direct] = self.grid.y[where]
            low[direct], high[direct] = _decode_width(self._low[where]), _decode_width(self._high[where])
            source[direct] = np.where(flag == 0, MEASURED, np.where(flag == 1, INTERPOLATED, EXTRAPOLATED))
            if self.family.edges_by_slots and "config" in self.models:
                self._edges(np.flatnonzero(direct)[flag == 2], columns, y, low, high, source)
        between = np.flatnonzero(known & ~exact & inside)
        if len(between):
            part = _take(columns, between)
            self._between(between, config[between], part, y, low, high, source)
        beyond = np.flatnonzero(known & ~exact & ~inside)
        if len(beyond):
            self._beyond(beyond, config[beyond], _take(columns, beyond), y, low, high)
        unknown = np.flatnonzero(~known)
        if len(unknown):
            self._unknown(unknown, _take(columns, unknown), y, low, high)
        source[changed & (source == MEASURED)] = INTERPOLATED  # measured, but for another version
        return y, low, high, source

    def _from_model(
        self, mode: str, rows: NDArray[np.int64], columns: Columns, y: Floats, low: Floats, high: Floats
    ) -> None:
        """Median and widths of one mode's models; `rows` says where they go."""
        if mode == "size":
            assert self.grid is not None
            features, base = stack.size_features(self.family, self.gpu, self.grid, columns)
        elif mode == "config":
            assert self.grid is not None and self._slots is not None
            features, base = stack.config_features(self.family, self.gpu, self.grid, self._slots, columns)
        else:
            features, base = stack.apart_features(self.family, self.gpu, columns, self.facts.get("law"))
        matrix = stack.matrix(features)
        if mode not in self._ensembles:
            self._ensembles[mode] = Ensemble(self.models[mode])
        median, lower, upper = self._ensembles[mode].predict(matrix)
        stretch = self.facts["stretch"][mode]
        y[rows] = base + median
        low[rows] = np.maximum(0.004, (median - lower) * stretch[0] + stretch[1])
        high[rows] = np.maximum(0.004, (upper - median) * stretch[0] + stretch[1])

    def _between(
        self,
        rows: NDArray[np.int64],
        config: NDArray[np.int64],
        columns: Columns,
        y: Floats,
        low: Floats,
        high: Floats,
        source: NDArray[np.int64],
    ) -> None:
        assert self.grid is not None and self.flags is not None
        if "size" in self.models:
            self._from_model("size", rows, columns, y, low, high)
        else:
            y[rows] = self.grid.interpolate(config, [np.asarray(columns[a], float) for a in self.family.axes])
            low[rows] = high[rows] = self.facts["size_width"]
        lost = np.isnan(y[rows])
        y[rows[lost]] = 0.0
        corner = [
            np.minimum(np.searchsorted(axis, np.asarray(columns[a], float)), len(axis) - 1)
            for axis, a in zip(self.grid.axes, self.family.axes)
        ]
        node = (config, *corner)
        covered = (self.flags[node] != 2) & ~lost
        source[rows] = np.where(covered, INTERPOLATED, EXTRAPOLATED)
        low[rows] = np.where(covered, low[rows], np.maximum(low[rows], self.facts["beyond_width"]))
        high[rows] = np.where(covered, high[rows], np.maximum(high[rows], self.facts["beyond_width"]))

    def _edges(
        self,
        rows: NDArray[np.int64],
        columns: Columns,
        y: Floats,
        low: Floats,
        high: Floats,
        source: NDArray[np.int64],
    ) -> None:
        """Nodes at the ends of a line, from similar configurations where there are some."""
        assert self._slots is not None
        part = _take(columns, rows)
        ids, _ = self._slots.of(stack.key_columns(self.family, part))
        some = np.flatnonzero((ids[:, : self.family.strict_slots] != ABSENT).any(axis=1))
        if len(some):
            self._from_model("config", rows[some], _take(part, some), y, low, high)
            source[rows[some]] = INTERPOLATED

    def _beyond(
        self, rows: NDArray[np.int64], config: NDArray[np.int64], columns: Columns, y: Floats, low: Floats, high: Floats
    ) -> None:
        """Continue from the edge of the box: time grows with the roofline at the slope of the last two nodes."""
        assert self.grid is not None
        value, octaves = beyond_box(self.family, self.gpu, self.grid, config, columns)
        y[rows] = value
        low[rows] = high[rows] = self.facts["beyond_width"] * np.sqrt(np.maximum(1.0, octaves))

    def _unknown(self, rows: NDArray[np.int64], columns: Columns, y: Floats, low: Floats, high: Floats) -> None:
        assert self.grid is not None and self._slots is not None
        mode = "config" if "config" in self.models else "physics"
        if mode == "config" and "physics" in self.models:
            ids, _ = self._slots.of(stack.key_columns(self.family, columns))
            alone = (ids[:, : self.family.strict_slots] == ABSENT).all(axis=1)
            if alone.any():
                some = np.flatnonzero(alone)
                self._from_model("physics", rows[some], _take(columns, some), y, low, high)
                some = np.flatnonzero(~alone)
                rows, columns = rows[some], _take(columns, some)
        if len(rows) and mode in self.models:
            self._from_model(mode, rows, columns, y, low, high)

    def covers_text(self, columns: Columns) -> bool:
        """Whether every text value (data types, operators) of the hard columns occurs in the table."""
        if self.grid is None:
            return True
        for i, name in enumerate(self.family.config):
            if name in self.family.text and name not in self.family.soft:
                known = {c[i] for c in self.grid.configs}
                if not set(columns[name].tolist()) <= known:
                    return False
        return True


def _likeness(a: str, b: str) -> int:
    """0..255: how many leading characters agree."""
    if a == b:
        return 255
    same = 0
    for x, z in zip(a, b):
        if x != z:
            break
        same += 1
    return min(254, same)


def _take(columns: Columns, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in columns.items()}


def beyond_box(
    family: Family, gpu: Gpu, grid: Grid, config: NDArray[np.int64], columns: Columns
) -> tuple[Floats, Floats]:
    """(log ratio, octaves beyond the box) of rows of known configurations outside their axes."""
    coordinates = [np.asarray(columns[a], float) for a in family.axes]
    clamped = [np.clip(c, axis[0], axis[-1]) for c, axis in zip(coordinates, grid.axes)]
    over = np.array([np.log2((c + 1.0) / (axis[-1] + 1.0)) for c, axis in zip(coordinates, grid.axes)])
    furthest = over.argmax(axis=0)
    edge = grid.interpolate(config, clamped)
    before = [
        np.where(furthest == a, axis[max(0, len(axis) - 2)], c) for a, (c, axis) in enumerate(zip(clamped, grid.axes))
    ]
    inner = grid.interpolate(config, before)

    def roofline(at: Sequence[Floats]) -> Floats:
        moved = dict(columns)
        for name, values in zip(family.axes, at):
            moved[name] = values
            if name == "q_len" and "kv_len" in moved:
                moved["kv_len"] = values + (columns["kv_len"] - columns["q_len"])
        return family.roofline_us(gpu, moved)

    here, at_edge, at_inner = roofline(coordinates), roofline(clamped), roofline(before)
    edge_us, inner_us = np.exp(edge) * at_edge, np.exp(inner) * at_inner
    slope = (edge_us - inner_us) / np.maximum(at_edge - at_inner, 1e-9)
    slope = np.clip(slope, 0.5 * edge_us / at_edge, 2.0 * edge_us / at_edge)
    above = over.max(axis=0) > 0
    us = np.where(above & (here > at_edge), edge_us + slope * (here - at_edge), np.exp(edge) * here)
    return np.nan_to_num(np.log(np.maximum(us, 1e-3) / here)), np.maximum(over.max(axis=0), 0.0)
