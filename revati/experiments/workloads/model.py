"""What a workload is made of: sessions of one or more calls."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NS_PER_S", "Call", "Segment", "Session"]

NS_PER_S = 1_000_000_000

# (key, tokens): equal keys give equal tokens, so a shared prefix is a shared key.
Segment = tuple[str, int]


@dataclass(frozen=True)
class Call:
    """One request to the server."""

    segments: tuple[Segment, ...]  # what this call adds to the prompt; with `fresh` it is the whole prompt
    output_tokens: int
    wait_ns: int = 0  # between the end of the call before it and this one: user or tool time
    fresh: bool = True  # False: the prompt is the history of the session plus `segments`

    @property
    def new_tokens(self) -> int:
        return sum(tokens for _, tokens in self.segments)


@dataclass(frozen=True)
class Session:
    """Calls that follow each other; most sessions have one."""

    klass: str
    index: int  # within the class, from 0
    at_ns: int  # planned begin after the start of the load; 0 in a closed loop
    calls: tuple[Call, ...]
