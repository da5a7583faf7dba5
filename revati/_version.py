"""The version of the installed distribution; the contract version between its parts is RVT_ABI_VERSION in csrc."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("revati")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"
