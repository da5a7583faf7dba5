"""The result of a case: one JSON file that is enough to reproduce, compare and draw it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from revati import UsageError

__all__ = ["RESULT_SCHEMA", "RESULT_VERSION", "read_result", "validate_result", "write_json"]

RESULT_VERSION = 1

# Requests beyond this number stay in requests.jsonl beside the result; the result then names that file.
EMBEDDED_REQUESTS_MAX = 20_000

_NUMBER_MAP = {"type": "object", "additionalProperties": {"type": "number"}}

RESULT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Revati result",
    "type": "object",
    "required": ["revati_result", "case", "digest", "complete", "outcome", "environment", "identity", "metrics"],
    "properties": {
        "revati_result": {"const": RESULT_VERSION},
        "case": {"type": "object", "description": "the case with every default filled in"},
        "digest": {"type": "string", "description": "hash of what decides the numbers"},
        "complete": {"type": "boolean", "description": "false: stopped early; the metrics are of what had finished"},
        "outcome": {"type": "object", "required": ["reason", "message"]},
        "environment": {"type": "object", "description": "versions and host; not compared"},
        "identity": {"type": "object", "description": "what must be equal for two results to be comparable"},
        "metrics": _NUMBER_MAP,
        "intervals": {"type": "object", "description": "metric: [low, high] from the predictor's own uncertainty"},
        "statistics": {"type": "object", "description": "GPU time by operator family, coverage, clock"},
        "samples": {"type": "array", "description": "looks at the server's metrics in virtual time"},
        "steps": {
            "type": "array",
            "description": "one row an engine step (revati.experiments.steps), the first 20,000",
        },
        "requests": {"type": "array", "description": "one record a request, by id"},
        "requests_file": {"type": ["string", "null"]},
        "driver_report": {"type": "object", "description": "what an external benchmark client reported itself"},
        "notes": {
            "type": "array",
            "items": {"type": "string"},
            "description": "read these before trusting the numbers",
        },
    },
}


def write_json(path: Path, data: Any) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(data, stream, indent=1, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file; UsageError if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot read the {what}: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path}: not a {what}: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: not a {what}: a JSON object is expected")
    return data


def validate_result(data: dict[str, Any], name: str) -> None:
    """The parts that every reader relies on; UsageError otherwise."""
    version = data.get("revati_result")
    if version != RESULT_VERSION:
        raise UsageError(f"{name}: result version {version}, this Revati reads {RESULT_VERSION}")
    missing = [key for key in RESULT_SCHEMA["required"] if key not in data]
    if missing:
        raise UsageError(f"{name}: not a Revati result: '{missing[0]}' is missing")
    if not all(isinstance(value, (int, float)) for value in data["metrics"].values()):
        raise UsageError(f"{name}: not a Revati result: 'metrics' must be numbers")


def read_result(path: Path) -> dict[str, Any]:
    """A result file, or the result of a directory that `revati bench` wrote."""
    if path.is_dir():
        path = path / "result.json"
    data = read_json(path, "result")
    validate_result(data, str(path))
    return data
