"""Synthetic tokenizers: byte-level BPE of the right size, with the model family's special tokens at their real ids.

No vocabulary of a real model is copied. Besides the 256 bytes the tokens are pronounceable words of one to three
syllables with a leading space, each reachable by BPE merges, so that `n` such words are `n` tokens in both directions;
that is what load generators need. Other text falls back to syllables and bytes: it takes more tokens than with the real
tokenizer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["text_of", "vocabulary", "write_tokenizer"]

SYLLABLES = tuple(c + v for c in "bcdfghjklmnprstvwxyz" for v in "aeiou")
SPACE = "Ġ"  # how byte-level BPE spells a space


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, by byte value."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs in rank order. A word's own merges rank before longer words', so that every word ends as one token."""
    for syllable in SYLLABLES:
        yield syllable[0], syllable[1]
    for syllable in SYLLABLES:
        yield SPACE, syllable
    for first in SYLLABLES:
        for second in SYLLABLES:
            yield SPACE + first, second
    for third in SYLLABLES:
        for first in SYLLABLES:
            for second in SYLLABLES:
                yield SPACE + first + second, third


def _special_tokens(family: Mapping[str, Any], vocab_size: int) -> dict[int, str]:
    special = {int(number): str(text) for number, text in family["special"].items()}
    reserved = family.get("reserved")
    if reserved:
        for number in range(reserved["from"], min(reserved["to"], vocab_size)):
            special.setdefault(number, reserved["name"].format(n=number - reserved["from"]))
    return special


def vocabulary(
    family: Mapping[str, Any], vocab_size: int
) -> tuple[dict[str, int], list[tuple[str, str]], dict[int, str]]:
    """(token -> id, merges in rank order, id -> special token); ids are dense up to a special token or the size."""
    special = _special_tokens(family, vocab_size)
    # Rows of the embedding above the last special token exist in the real models too and are never produced.
    top = max(special) + 1 if max(special) > vocab_size // 2 else vocab_size
    free_ids = (number for number in range(top) if number not in special)
    vocab = {token: next(free_ids) for token in _byte_alphabet()}
    merges: list[tuple[str, str]] = []
    for pair, number in zip(_merges(), free_ids):
        vocab[pair[0] + pair[1]] = number
        merges.append(pair)
    return vocab, merges, special


def _chat_template(family: Mapping[str, Any]) -> str:
    def spell(text: str, role: str) -> str:
        return "{{ '" + text.replace("\n", "\\n").replace("{role}", "' + " + role + " + '") + "' }}"

    template = family["template"]
    bos = "{{ bos_token }}" if family["add_bos"] else ""
    return (
        bos
        + "{% for message in messages %}"
        + spell(template["start"], "message['role']")
        + "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        + "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
        + spell(template["end"], "message['role']")
        + "{% endfor %}{% if add_generation_prompt %}"
        + spell(template["start"], "'assistant'")
        + "{% endif %}"
    )


def write_tokenizer(folder: Path, family: Mapping[str, Any], vocab_size: int, max_length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json, byte-identical for equal arguments."""
    vocab, merges, special = vocabulary(family, vocab_size)
    by_text = {text: number for number, text in special.items()}
    processor: dict[str, Any] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    if family["add_bos"]:
        bos = family["bos"]
        template = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": bos, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": bos, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {bos: {"id": bos, "ids": [by_text[bos]], "tokens": [bos]}},
        }
        processor = {"type": "Sequence", "processors": [processor, template]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, text in sorted(special.items())
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**vocab, **by_text},
            "merges": merges,
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": family["bos"],
        "eos_token": family["eos"],
        "add_bos_token": bool(family["add_bos"]),
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": _chat_template(family),
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")


def text_of(tokens: int, seed: int) -> str:
    """Seeded text of exactly `tokens` tokens (special tokens not counted) for every synthetic tokenizer.

    Only two-syllable words are used: every family's vocabulary holds all 10,000 of them.
    """
    draw = random.Random(seed)
    return "".join(" " + draw.choice(SYLLABLES) + draw.choice(SYLLABLES) for _ in range(tokens))
