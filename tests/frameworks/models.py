"""Small models for tests: the vocabulary and the kernels are the real ones, the layers are few."""

from __future__ import annotations

import json
from pathlib import Path


def short_llama(folder: Path, layers: int = 2) -> Path:
    """Llama-3.1-8B with so many layers, in a new folder below `folder`."""
    from revati.models import write_model

    target = folder / "llama"
    write_model("llama-3.1-8b", target)
    config = json.loads((target / "config.json").read_text())
    config["num_hidden_layers"] = layers
    (target / "config.json").write_text(json.dumps(config))
    return target
