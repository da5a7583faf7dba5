"""Benchmark clients of others, run as they are; placeholder until parsers exist."""

from __future__ import annotations


def client_command(*a):
    raise NotImplementedError


def read_report(*a):
    raise NotImplementedError
