"""ServeGen clients: arrival rate, inter-arrival family and length distributions that change by time window."""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from revati import UsageError
from revati.experiments.workloads.model import NS_PER_S, Call, Session

__all__ = ["servegen_sessions"]

_PAIR = re.compile(r"([0-9.eE+-]+)\s*:\s*([0-9.eE+-]+)")


@dataclass(frozen=True)
class _Window:
    start_s: float
    rate_per_s: float
    family: str
    first: float  # shape
    second: float  # scale, seconds


class _Lengths:
    """A distribution over token counts, drawn by its cumulative sum."""

    def __init__(self, text: str, where: str) -> None:
        pairs = sorted((float(value), float(weight)) for value, weight in _PAIR.findall(text))
        if not pairs or sum(weight for _, weight in pairs) <= 0:
            raise UsageError(f"{where}: no length distribution")
        self._values = [max(1, round(value)) for value, _ in pairs]
        self._sums = list(accumulate(weight for _, weight in pairs))

    def draw(self, source: random.Random) -> int:
        index = bisect_left(self._sums, source.random() * self._sums[-1])
        return self._values[min(index, len(self._values) - 1)]


def servegen_sessions(
    arrival: dict[str, Any], trace: Path, dataset: Path, klass: str, gaps: random.Random, lengths: random.Random
) -> Iterator[Session]:
    """Sessions of one ServeGen client; ends with the last window."""
    windows = _windows(trace)
    tables = _tables(dataset)
    starts = sorted(tables)
    index = 0
    for number, window in enumerate(windows):
        end_s = (
            windows[number + 1].start_s
            if number + 1 < len(windows)
            else 2 * window.start_s - windows[number - 1].start_s
        )
        if window.rate_per_s <= 0:
            continue
        time_s = window.start_s
        while True:
            time_s += _gap_s(window, gaps) / arrival["rate_scale"]
            if time_s >= end_s:
                break
            prompt, answer = tables[max([start for start in starts if start <= time_s], default=starts[0])]
            call = Call(((f"u/{klass}/{index}", prompt.draw(lengths)),), answer.draw(lengths))
            yield Session(klass, index, round(time_s * NS_PER_S), (call,))
            index += 1


def _gap_s(window: _Window, source: random.Random) -> float:
    if window.family == "Gamma":
        return source.gammavariate(window.first, window.second)
    if window.family == "Weibull":
        return window.second * math.pow(-math.log(1.0 - source.random()), 1.0 / window.first)
    return -math.log(1.0 - source.random()) / window.rate_per_s


def _text(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8")
    except (OSError, EOFError) as error:
        raise UsageError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None


def _windows(path: Path) -> list[_Window]:
    windows = []
    for number, cells in enumerate(csv.reader(_text(path).splitlines()), 1):
        try:
            start, rate, _, family, first, second = cells
            windows.append(_Window(float(start), float(rate), family, float(first), float(second)))
        except ValueError:
            raise UsageError(f"{path}:{number}: expected start_s, rate, cv, family, shape, scale") from None
    if len(windows) < 2 or all(window.rate_per_s <= 0 for window in windows):
        raise UsageError(f"{path}: the trace has no windows with requests")
    return windows


def _tables(path: Path) -> dict[float, tuple[_Lengths, _Lengths]]:
    try:
        data = json.loads(_text(path))
        return {
            float(start): (
                _Lengths(str(row["input_tokens"]), f"{path}: window {start}"),
                _Lengths(str(row["output_tokens"]), f"{path}: window {start}"),
            )
            for start, row in data.items()
        }
    except (json.JSONDecodeError, KeyError, AttributeError, ValueError) as error:
        raise UsageError(f"{path}: not a ServeGen dataset: {error}") from None
