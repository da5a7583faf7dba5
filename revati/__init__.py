"""Revati: a virtual GPU and a virtual clock for unmodified LLM serving frameworks.

The public Python surface is what this file lists; every module with a leading underscore is private.
"""

from __future__ import annotations

from revati._errors import (
    CoordinatorLostError,
    DeadlockError,
    HostError,
    ProtocolMismatchError,
    RevatiError,
    RunError,
    UnknownNameError,
    UsageError,
)
from revati._version import __version__

__all__ = [
    "CoordinatorLostError",
    "DeadlockError",
    "HostError",
    "ProtocolMismatchError",
    "RevatiError",
    "RunError",
    "UnknownNameError",
    "UsageError",
    "__version__",
]
