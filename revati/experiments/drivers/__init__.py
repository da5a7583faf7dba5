"""Drivers: programs that send the load and measure it at the client. All run inside the clock of the experiment."""

from __future__ import annotations
