"""`revati predict` and `revati packs`, which revati_predictors brings along."""

from __future__ import annotations

from typing import Any

__all__ = ["add"]


def add(subparsers: Any) -> None:
    from revati_predictors.cli import add_packs_parser, add_predict_parser

    add_predict_parser(subparsers)
    add_packs_parser(subparsers)
