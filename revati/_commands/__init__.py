"""The sub-commands. Each module offers `add(subparsers)`, which sets `run` to a function of the parsed arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from revati._commands import api, catalogue, control, doctor, join, models, predict, record, run, smi
from revati.calibration.command import add as add_calibrate
from revati.calibration.command import add_validate
from revati.experiments.cli import add_parsers as add_experiments

__all__ = ["COMMANDS"]

COMMANDS: tuple[Callable[[Any], None], ...] = (
    run.add,
    join.add,
    record.add,
    control.add,
    smi.add,
    doctor.add,
    catalogue.add,
    models.add,
    api.add,
    predict.add,
    add_experiments,
    add_calibrate,
    add_validate,
)
