"""Token ids of prompts: from keys, so that equal keys are equal prefixes for the server's cache."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict

from revati.experiments.workloads.model import Segment

__all__ = ["PromptMaker"]

_LOWEST_ID = 1000  # below are special and byte tokens in the usual vocabularies
_CACHED_SEGMENTS = 256


class PromptMaker:
    """Makes token ids from segment keys; remembers a few shared segments."""

    def __init__(self, seed: int, token_ids_below: int) -> None:
        self._seed = seed
        self._span = token_ids_below - _LOWEST_ID
        self._cache: OrderedDict[Segment, list[int]] = OrderedDict()

    def tokens(self, segments: tuple[Segment, ...]) -> list[int]:
        """The ids of a row of segments."""
        ids: list[int] = []
        for segment in segments:
            ids.extend(self._segment(segment))
        return ids

    def _segment(self, segment: Segment) -> list[int]:
        known = self._cache.get(segment)
        if known is not None:
            self._cache.move_to_end(segment)
            return known
        key, count = segment
        # An extendable hash: a shorter segment of the same key is a prefix of the longer one.
        raw = hashlib.shake_128(f"{self._seed}/{key}".encode()).digest(4 * count)
        words = array("I")
        words.frombytes(raw)
        ids = [_LOWEST_ID + word % self._span for word in words]
        if not key.startswith("u/"):  # unique segments never come again
            self._cache[segment] = ids
            if len(self._cache) > _CACHED_SEGMENTS:
                self._cache.popitem(last=False)
        return ids
