"""Reports of results for people."""

from __future__ import annotations
