"""What the observer of vLLM says about speculation that nothing emulates."""

from __future__ import annotations

import pytest

from revati.frameworks.vllm_observer import lacking_speculation


@pytest.mark.parametrize("method", [None, "ngram", "eagle", "draft_model"])
def test_emulated_speculation_needs_no_word(method: str | None) -> None:
    assert lacking_speculation(method, "0.25.1") is None


def test_other_speculation_is_named() -> None:
    assert lacking_speculation("medusa", "0.25.1") == "speculative decoding by 'medusa' is not emulated"
    assert lacking_speculation("ngram", "0.15.1") == "speculative decoding has not been tried with vLLM 0.15.1"
    assert lacking_speculation(None, "0.15.1") is None
