"""Trace files, read row by row: a million rows cost no more memory than ten.

Every reader yields sessions with a planned time; errors name file and line.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from revati import UsageError
from revati.experiments.workloads.model import NS_PER_S, Call, Segment, Session

__all__ = ["trace_sessions"]

_AGENT_ROWS_MAX = 200_000
# An agentic trace gives the end of each call only; the time the recorded model took for the next answer is part of
# the gap. It is taken off at this speed, the rest is tool time.
_AGENT_NS_PER_TOKEN = 15_000_000


@dataclass(frozen=True)
class _Row:
    """One request of a trace."""

    time_ns: int | None
    input_tokens: int
    output_tokens: int
    blocks: tuple[str, ...] = ()
    block_tokens: int = 0


def trace_sessions(trace: dict[str, Any], path: Path, klass: str) -> Iterator[Session]:
    """Sessions of a trace section of the case; UsageError for an unreadable, malformed or empty file."""
    lines = _Lines(path)
    if trace["format"] == "agentic":
        sessions = _agentic(lines, trace, klass)
    else:
        sessions = _single_calls(_READERS[trace["format"]](lines), lines, trace, klass)
    found = False
    for session in sessions:
        found = True
        yield session
    if not found:
        raise UsageError(f"{path}: the trace has no rows" + (" after those skipped" if trace["skip"] else ""))


class _Lines:
    """Lines of a text or .gz file with the number of the current one, decoded strictly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        try:
            with self._open() as stream:
                for self.number, raw in enumerate(stream, 1):
                    try:
                        yield raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
                    except UnicodeDecodeError as error:
                        raise self.error(f"byte 0x{raw[error.start]:02x} is not UTF-8") from None
        except OSError as error:
            raise UsageError(f"{self.path}: cannot read the trace: {error.strerror or error}") from None
        except EOFError:
            raise UsageError(f"{self.path}: the compressed file ends too early") from None

    def _open(self) -> IO[bytes]:
        if self.path.suffix == ".gz":
            return gzip.open(self.path, "rb")  # type: ignore[return-value]
        return self.path.open("rb")

    def error(self, message: str) -> UsageError:
        return UsageError(f"{self.path}:{self.number}: {message}")

    def count(self, text: object, what: str, *, least: int) -> int:
        """A whole number of at least `least`."""
        try:
            value = int(str(text)) if not isinstance(text, (int, float)) or isinstance(text, bool) else int(text)
        except (ValueError, OverflowError):
            raise self.error(f"{what} is '{text}', not a whole number") from None
        if value < least:
            raise self.error(f"{what} is {value}; it must be at least {least}")
        return value

    def time_ns(self, text: object, what: str, ns_per_unit: int) -> int:
        """A time that is not negative, in nanoseconds."""
        try:
            if isinstance(text, int) and not isinstance(text, bool):
                value = text * ns_per_unit
            else:
                value = round(float(str(text)) * ns_per_unit)
        except (ValueError, OverflowError):
            raise self.error(f"{what} is '{text}', not a time") from None
        if value < 0:
            raise self.error(f"{what} is negative: {text}")
        return value

    def csv_rows(
        self, columns: Mapping[str, tuple[str, ...]], optional: tuple[str, ...] = ()
    ) -> Iterator[dict[str, str]]:
        """Rows of a CSV file with a header as {our name: text}; `columns` maps our names to accepted headers."""
        header: dict[str, int] | None = None
        try:
            for cells in csv.reader(iter(self)):
                if not any(cell.strip() for cell in cells):
                    continue
                if header is None:
                    header = self._header(cells, columns, optional)
                    continue
                if len(cells) <= max(header.values()):
                    raise self.error(f"{len(cells)} columns where the header has more")
                yield {name: cells[index].strip() for name, index in header.items()}
        except csv.Error as error:
            raise self.error(f"not CSV: {error}") from None

    def _header(
        self, cells: list[str], columns: Mapping[str, tuple[str, ...]], optional: tuple[str, ...]
    ) -> dict[str, int]:
        present = {cell.strip().lower(): index for index, cell in enumerate(cells)}
        header = {}
        for name, accepted in columns.items():
            index = next((present[text.lower()] for text in accepted if text.lower() in present), None)
            if index is not None:
                header[name] = index
            elif name not in optional:
                raise self.error(f"column '{accepted[0]}' is missing; the header has: {', '.join(present)}")
        return header

    def json_rows(self) -> Iterator[dict[str, Any]]:
        for line in self:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise self.error(f"not JSON: {error.msg}") from None
            if not isinstance(row, dict):
                raise self.error("a row must be a JSON object")
            yield row

    def key(self, row: dict[str, Any], name: str) -> Any:
        if name not in row:
            raise self.error(f"'{name}' is missing; the row has: {', '.join(row)}")
        return row[name]


def _plain(lines: _Lines) -> Iterator[_Row]:
    columns = {
        "time": ("arrival_s",),
        "input": ("input_tokens",),
        "output": ("output_tokens",),
        "blocks": ("prefix_blocks",),
        "block_tokens": ("block_tokens",),
    }
    for row in lines.csv_rows(columns, optional=("time", "blocks", "block_tokens")):
        blocks = tuple(row.get("blocks", "").split())
        if blocks and "block_tokens" not in row:
            raise lines.error("'prefix_blocks' needs a column 'block_tokens'")
        yield _Row(
            lines.time_ns(row["time"], "arrival_s", NS_PER_S) if "time" in row else None,
            lines.count(row["input"], "input_tokens", least=1),
            lines.count(row["output"], "output_tokens", least=1),
            blocks,
            lines.count(row["block_tokens"], "block_tokens", least=1) if blocks else 0,
        )


def _azure(lines: _Lines) -> Iterator[_Row]:
    columns = {"time": ("TIMESTAMP",), "input": ("ContextTokens",), "output": ("GeneratedTokens",)}
    for row in lines.csv_rows(columns):
        yield _Row(
            _utc_ns(row["time"], lines),
            max(1, lines.count(row["input"], "ContextTokens", least=0)),
            max(1, lines.count(row["output"], "GeneratedTokens", least=0)),
        )


def _burstgpt(lines: _Lines) -> Iterator[_Row]:
    columns = {"time": ("Timestamp",), "input": ("Request tokens",), "output": ("Response tokens",)}
    for row in lines.csv_rows(columns):
        output = lines.count(row["output"], "Response tokens", least=0)
        if output == 0:
            continue  # failed requests of the recorded service
        yield _Row(
            lines.time_ns(row["time"], "Timestamp", NS_PER_S),
            max(1, lines.count(row["input"], "Request tokens", least=0)),
            output,
        )


def _mooncake(lines: _Lines) -> Iterator[_Row]:
    for row in lines.json_rows():
        ids = row.get("hash_ids", [])
        if not isinstance(ids, list):
            raise lines.error("'hash_ids' must be a list")
        yield _Row(
            lines.time_ns(lines.key(row, "timestamp"), "timestamp", 1_000_000),
            lines.count(lines.key(row, "input_length"), "input_length", least=1),
            max(1, lines.count(lines.key(row, "output_length"), "output_length", least=0)),
            tuple(str(item) for item in ids),
            512,
        )


def _llmservingsim(lines: _Lines) -> Iterator[_Row]:
    for row in lines.json_rows():
        yield _Row(
            lines.time_ns(lines.key(row, "arrival_time_ns"), "arrival_time_ns", 1),
            lines.count(lines.key(row, "input_toks"), "input_toks", least=1),
            lines.count(lines.key(row, "output_toks"), "output_toks", least=1),
        )


def _sharegpt_lengths(lines: _Lines) -> Iterator[_Row]:
    columns = {
        "time": ("arrival_us",),
        "input": ("input_tokens",),
        "output": ("output_tokens",),
        "blocks": ("prefix_block_ids16",),
    }
    for row in lines.csv_rows(columns, optional=("blocks",)):
        yield _Row(
            lines.time_ns(row["time"], "arrival_us", 1000),
            lines.count(row["input"], "input_tokens", least=1),
            lines.count(row["output"], "output_tokens", least=1),
            tuple(row.get("blocks", "").split()),
            16,
        )


def _vidur(lines: _Lines) -> Iterator[_Row]:
    columns = {"input": ("num_prefill_tokens",), "output": ("num_decode_tokens",)}
    for row in lines.csv_rows(columns):
        yield _Row(
            None,
            lines.count(row["input"], "num_prefill_tokens", least=1),
            lines.count(row["output"], "num_decode_tokens", least=1),
        )


_READERS: dict[str, Callable[[_Lines], Iterator[_Row]]] = {
    "csv": _plain,
    "azure": _azure,
    "burstgpt": _burstgpt,
    "mooncake": _mooncake,
    "llmservingsim": _llmservingsim,
    "sharegpt-lengths": _sharegpt_lengths,
    "vidur": _vidur,
}


def _utc_ns(text: str, lines: _Lines) -> int:
    """Nanoseconds of a UTC time with up to nine digits after the point."""
    whole, _, fraction = text.partition(".")
    fraction = fraction.split("+")[0]
    try:
        seconds = int(datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp())
        return seconds * NS_PER_S + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        raise lines.error(f"'{text}' is not a time such as 2023-11-16 18:15:46.6805900") from None


def _single_calls(rows: Iterator[_Row], lines: _Lines, trace: dict[str, Any], klass: str) -> Iterator[Session]:
    first_ns: int | None = None
    last_ns = 0
    index = 0
    for number, row in enumerate(rows):
        if number < trace["skip"]:
            continue
        if trace["first"] is not None and index >= trace["first"]:
            return
        at_ns = 0
        if row.time_ns is not None:
            first_ns = row.time_ns if first_ns is None else first_ns
            at_ns = round((row.time_ns - first_ns) * trace["time_scale"])
            if at_ns < last_ns:
                raise lines.error("rows must be ordered by time")
            last_ns = at_ns
        input_tokens = min(row.input_tokens, trace["max_input_tokens"] or row.input_tokens)
        output_tokens = min(row.output_tokens, trace["max_output_tokens"] or row.output_tokens)
        segments = _segments(row, input_tokens, f"u/{klass}/{index}")
        yield Session(klass, index, at_ns, (Call(segments, output_tokens),))
        index += 1


def _segments(row: _Row, input_tokens: int, own_key: str) -> tuple[Segment, ...]:
    """Prefix blocks in order, then tokens of this request alone. A block id stands for itself and all before it."""
    segments: list[Segment] = []
    left = input_tokens
    for block in row.blocks:
        if left <= 0:
            break
        count = min(left, row.block_tokens)
        segments.append((f"b/{block}", count))
        left -= count
    if left > 0:
        segments.append((own_key, left))
    return tuple(segments)


def _agentic(lines: _Lines, trace: dict[str, Any], klass: str) -> Iterator[Session]:
    """Sessions of calls with tool time between them; rows of a session stand together."""
    columns = {
        "session": ("session",),
        "time": ("timestamp_utc_end", "end_utc"),
        "input": ("prompt_tokens",),
        "output": ("completion_tokens",),
    }
    groups: dict[str, list[_Row]] = {}
    current = ""
    for number, row in enumerate(lines.csv_rows(columns)):
        if number >= _AGENT_ROWS_MAX:
            raise lines.error(f"an agentic trace has at most {_AGENT_ROWS_MAX} calls; cut it")
        if number < trace["skip"] or (trace["first"] is not None and number >= trace["skip"] + trace["first"]):
            continue
        if row["session"] != current and row["session"] in groups:
            raise lines.error(f"rows of session '{row['session']}' do not stand together")
        current = row["session"]
        groups.setdefault(current, []).append(
            _Row(
                _utc_ns(row["time"], lines),
                lines.count(row["input"], "prompt_tokens", least=1),
                max(1, lines.count(row["output"], "completion_tokens", least=0)),
            )
        )
    starts = {name: rows[0].time_ns or 0 for name, rows in groups.items()}
    first_ns = min(starts.values(), default=0)
    for index, name in enumerate(sorted(groups, key=lambda item: (starts[item], item))):
        at_ns = round((starts[name] - first_ns) * trace["time_scale"])
        yield Session(klass, index, at_ns, _agent_calls(groups[name], trace, f"{klass}/{index}"))


def _agent_calls(rows: list[_Row], trace: dict[str, Any], key: str) -> tuple[Call, ...]:
    calls: list[Call] = []
    history = 0
    for turn, row in enumerate(rows):
        prompt = min(row.input_tokens, trace["max_input_tokens"] or row.input_tokens)
        output = min(row.output_tokens, trace["max_output_tokens"] or row.output_tokens)
        wait_ns = 0
        if turn > 0:
            gap_ns = (row.time_ns or 0) - (rows[turn - 1].time_ns or 0)
            wait_ns = round(max(0, gap_ns - row.output_tokens * _AGENT_NS_PER_TOKEN) * trace["time_scale"])
        fresh = turn == 0 or prompt <= history
        added = prompt if fresh else prompt - history
        calls.append(Call(((f"u/{key}/{turn}", added),), output, wait_ns, fresh))
        history = prompt + output
    return tuple(calls)
