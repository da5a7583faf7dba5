"""Workloads: a case's classes as one stream of sessions, drawn from the seed and never held in memory as a whole."""

from __future__ import annotations

from revati.experiments.workloads.model import Call, Session
from revati.experiments.workloads.prompts import PromptMaker
from revati.experiments.workloads.stream import ClosedClass, Workload

__all__ = ["Call", "ClosedClass", "PromptMaker", "Session", "Workload"]
