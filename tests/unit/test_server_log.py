"""The part of a server's log that an error message quotes."""

from __future__ import annotations

from pathlib import Path

from revati._serverlog import explain

LOG = """\
(EngineCore pid=7) INFO 01-01 00:00:00 [core.py:3] loading, no errors: 0
(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:9] Traceback (most recent call last):
(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:9] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB
(EngineCore pid=7) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB
(APIServer pid=5) RuntimeError: Engine core initialization failed.
"""


def test_each_error_once_the_cause_first(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(LOG)
    assert explain(log).splitlines() == [
        "  torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB",
        "  RuntimeError: Engine core initialization failed.",
        f"  (all of it: {log})",
    ]


def test_without_an_error_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert explain(log).splitlines()[-2:] == ["  line 99", f"  (all of it: {log})"]


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    assert "no log" in explain(tmp_path / "none")
