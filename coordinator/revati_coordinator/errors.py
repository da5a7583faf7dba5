"""What the coordinator raises. Each message is one sentence for the user."""

from __future__ import annotations

__all__ = ["CoordinatorError", "NotRunningError"]


class CoordinatorError(RuntimeError):
    """The host loop or one of the services could not do what was asked."""


class NotRunningError(CoordinatorError):
    """There is no coordinator to talk to."""
