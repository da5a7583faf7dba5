"""The symbol table against the built library: neither may know a symbol that the other does not."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from revati._hostcheck import preload_library

ROOT = Path(__file__).resolve().parents[2]
OURS = re.compile(r"(__)?cuda[A-Z]|cublas|nvml[A-Z]|p?nccl[A-Z]|cu[A-Z]")


def table() -> dict[str, str]:
    """Symbol -> status, over all libraries."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "csrc" / "api").glob("*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                assert row["name"] not in found, f"{row['name']} is listed twice"
                found[row["name"]] = row["status"]
    return found


def exports() -> dict[str, str]:
    """Exported functions -> symbol class of nm: T strong, W weak (a generated stub)."""
    done = subprocess.run(
        ["nm", "-D", "--defined-only", str(preload_library())], capture_output=True, text=True, check=True
    )
    return {name: kind for _, kind, name in (line.split() for line in done.stdout.splitlines()) if kind in "TW"}


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm (binutils)")
def test_exports_are_the_table() -> None:
    listed, exported = table(), exports()
    cuda = {name for name in exported if OURS.match(name)}
    assert sorted(cuda - set(listed)) == []
    assert sorted(set(listed) - set(exported)) == []
    assert sorted(name for name in listed if (listed[name] == "unsupported") != (exported[name] == "W")) == []


def test_generated_files_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "csrc/api/generate.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_private_symbols_stay_private() -> None:
    """Nothing but replaced interfaces and the observers' functions leaves the library."""
    assert [name for name in exports() if name.startswith(("rvt_", "_Z"))] == []
