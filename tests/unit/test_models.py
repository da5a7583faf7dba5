"""Model configurations and synthetic tokenizers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from revati import UnknownNameError, UsageError
from revati.models import load_model, model_keys, text_of, write_model


def _dense_parameters(c: dict[str, Any]) -> int:
    hidden, head = c["hidden_size"], c["head_dim"]
    attention = hidden * head * (2 * c["num_attention_heads"] + 2 * c["num_key_value_heads"])
    mlp = 3 * hidden * c["intermediate_size"]
    norms = 2 * hidden + (2 * head if c["model_type"] == "qwen3" else 0)
    return c["num_hidden_layers"] * (attention + mlp + norms) + 2 * c["vocab_size"] * hidden + hidden


@pytest.mark.parametrize("key", [k for k in model_keys() if load_model(k).config["model_type"] in ("llama", "qwen3")])
def test_parameter_count_follows_from_the_configuration(key: str) -> None:
    model = load_model(key)
    assert _dense_parameters(model.config) == model.parameters


def test_moe_parameter_counts_follow_from_the_configuration() -> None:
    for key, experts, width in (("qwen3-30b-a3b", 128, 768), ("mixtral-8x7b", 8, 14336)):
        model = load_model(key)
        c = model.config
        hidden, head = c["hidden_size"], c["head_dim"]
        attention = hidden * head * (2 * c["num_attention_heads"] + 2 * c["num_key_value_heads"])
        norms = 2 * hidden + (2 * head if c["model_type"] == "qwen3_moe" else 0)
        layer = attention + experts * 3 * hidden * width + experts * hidden + norms
        assert c["num_hidden_layers"] * layer + 2 * c["vocab_size"] * hidden + hidden == model.parameters


@pytest.mark.parametrize("key", model_keys())
def test_written_model_is_complete_and_deterministic(key: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    model = write_model(key, first)
    write_model(key, second)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    config = json.loads((first / "config.json").read_text())
    if "layer_types" in config:
        assert len(config["layer_types"]) == config["num_hidden_layers"]
    tokenizer = Tokenizer.from_file(str(first / "tokenizer.json"))
    assert tokenizer.get_vocab_size() <= model.config["vocab_size"]
    assert max(tokenizer.get_vocab().values()) < model.config["vocab_size"]
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))
    ends = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    special = {token for token, _ in ((t.content, t) for t in tokenizer.get_added_tokens_decoder().values())}
    for end in ends:
        assert tokenizer.id_to_token(end) in special


@pytest.mark.parametrize("key", ["llama-3.1-8b", "llama-2-7b", "qwen3-8b", "gpt-oss-120b", "deepseek-v3"])
@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_text_has_exactly_the_tokens_asked_for(key: str, tokens: int, tmp_path: Path) -> None:
    write_model(key, tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = text_of(tokens, seed=tokens)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) == tokens
    assert tokenizer.decode(ids) == text


def test_random_ids_survive_decoding_nearly_unchanged(tmp_path: Path) -> None:
    """Load generators draw random ids, send text, and expect about as many tokens at the server."""
    write_model("llama-3.1-8b", tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    draw = random.Random(1)
    ids = [draw.randrange(128000) for _ in range(4000)]
    again = tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False).ids
    assert len(again) == pytest.approx(len(ids), rel=0.01)


def test_any_text_round_trips(tmp_path: Path) -> None:
    write_model("qwen3-8b", tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ('{"a": [1, 2.5e-3, null]}', "naïve 北京 🚀\n\ttabs", " leading", ""):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_refuses_another_models_folder_and_unknown_names(tmp_path: Path) -> None:
    write_model("llama-2-7b", tmp_path)
    with pytest.raises(UsageError, match="another model"):
        write_model("qwen3-8b", tmp_path)
    with pytest.raises(UnknownNameError, match=r"llama-3\.1-8b"):
        write_model("llama-3.1-9b", tmp_path / "x")


def test_transformers_loads_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_model("llama-3.1-8b", tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer.eos_token_id == 128009
    assert tokenizer(text_of(10, 1)).input_ids[0] == 128000
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.count("<|start_header_id|>") == 2
    assert transformers.AutoConfig.from_pretrained(str(tmp_path)).num_key_value_heads == 8
