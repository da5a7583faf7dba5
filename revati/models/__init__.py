"""Public model configurations as data, and matching synthetic tokenizers: no download, no model hub.

`write_model("llama-3.1-8b", folder)` makes a directory that `vllm serve FOLDER --load-format dummy` accepts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from revati._errors import UnknownNameError, UsageError
from revati.models.tokenizer import text_of, write_tokenizer

__all__ = ["Model", "load_model", "model_keys", "text_of", "write_model"]


@dataclass(frozen=True)
class Model:
    """One public architecture; `config` is what config.json holds."""

    key: str
    description: str
    parameters: int
    source: str
    tokenizer: str
    config: dict[str, Any]


def _data(name: str) -> Any:
    return yaml.safe_load((resources.files("revati") / "data" / "models" / name).read_text(encoding="utf-8"))


@cache
def _models() -> dict[str, Any]:
    return dict(_data("models.yaml"))


def model_keys() -> list[str]:
    return sorted(_models())


def load_model(key: str) -> Model:
    """The configuration of that name. Raises UnknownNameError with the nearest names."""
    if key not in _models():
        raise UnknownNameError("model", key, _models())
    entry = _models()[key]
    config = dict(entry["config"])
    layer_types = config.get("layer_types")
    if isinstance(layer_types, dict):
        cycle = layer_types["alternate"]
        config["layer_types"] = [cycle[index % len(cycle)] for index in range(config["num_hidden_layers"])]
    return Model(key, entry["description"], entry["parameters"], entry["source"], entry["tokenizer"], config)


def write_model(key: str, folder: Path) -> Model:
    """Writes config.json, generation_config.json and the synthetic tokenizer into `folder` (made if absent).

    Raises UsageError when the folder already holds another model.
    """
    model = load_model(key)
    text = json.dumps(model.config, indent=2, sort_keys=True) + "\n"
    present = folder / "config.json"
    if present.exists() and present.read_text(encoding="utf-8") != text:
        raise UsageError(f"{folder} already holds another model; choose an empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        family = _data("tokenizers.yaml")[model.tokenizer]
        write_tokenizer(folder, family, model.config["vocab_size"], model.config["max_position_embeddings"])
        generation = {name: model.config[name] for name in ("bos_token_id", "eos_token_id") if name in model.config}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
        # Last, so that a folder with a config.json is complete.
        present.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the model to {folder}: {error.strerror or error}") from error
    return model
