"""The demo: unmodified `vllm serve` and `vllm bench serve` on a virtual GPU in one virtual clock."""

from __future__ import annotations
