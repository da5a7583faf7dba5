"""The owner of a run's virtual clock: the C host loop, process supervision and the gRPC services around it."""

from __future__ import annotations
