from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from revati._errors import UsageError
from revati.calibration.cells import Cell, plan_cells
from revati.calibration.dataset import load_results, write_tables
from revati.calibration.plan import parse_duration, plan_text
from revati.calibration.rows import RowWriter, read_lines
from revati.calibration.train import train_pack
from tests.calibration.helpers import row_line, session_line, write_lines

GEMM = Cell("gemm", ("bfloat16", 8, 4096, 4096))
OTHER = Cell("gemm", ("bfloat16", 16, 4096, 4096))


def test_rows_are_on_disk_at_once_and_a_second_start_knows_them(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    writer = RowWriter(path, {"command": "x"})
    writer.row("a", {"lat_us": 1.0})
    writer.error("b", "no\nsuch  thing")
    writer.error("c", "not yet", again=True)
    assert [r["kind"] for r in read_lines(path)] == ["session", "row", "error", "error"]
    assert RowWriter(path, {}).done == {"a", "b"}
    assert RowWriter(path, {}, dry=True).done == set()


def test_a_torn_line_is_dropped_and_does_not_spoil_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    RowWriter(path, {}).row("a", {})
    with path.open("a") as file:
        file.write('{"kind":"row","key":"tor')
    assert [r.get("key") for r in read_lines(path)] == [None, "a"]
    writer = RowWriter(path, {})
    assert writer.done == {"a"}
    writer.row("b", {})
    assert RowWriter(path, {}).done == {"a", "b"}


def test_tables_have_the_published_columns_and_the_measured_values(tmp_path: Path) -> None:
    write_lines(tmp_path / "r" / "sweep.jsonl", [session_line(), row_line(GEMM, 12.5), row_line(OTHER, 13.5)])
    measured = load_results([tmp_path / "r"])
    assert measured.gpu == "h200_sxm"
    written = write_tables(measured, tmp_path / "out")
    assert written == {"gemm/h200_sxm.torch-2.11.0.csv.gz": 2}
    with gzip.open(tmp_path / "out" / "gemm" / "h200_sxm.torch-2.11.0.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:9] == ["gpu", "framework", "version", "kernel", "dtype", "m", "n", "k", "lat_us"]
    assert {(r["m"], r["lat_us"], r["l2"]) for r in rows} == {("8", "12.5", "cold"), ("16", "13.5", "cold")}
    conditions = json.loads((tmp_path / "out" / "conditions.json").read_text())
    assert conditions["conditions"]["gpu"]["uuid"] == "GPU-1"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [(entry["file"], entry["rows"]) for entry in manifest] == list(written.items())


def test_training_tables_hold_neither_held_out_nor_warm_nor_ragged_rows(tmp_path: Path) -> None:
    cells = plan_cells(["llama-3.1-8b"], tiers=[0, 1])
    session = {**session_line(), "versions": {"torch": "2.11.0+cu130", "vllm": "0.25.1"}}
    write_lines(tmp_path / "r" / "sweep.jsonl", [session, *(row_line(c, 5.0) for c in cells)])
    written = write_tables(load_results([tmp_path / "r"]), tmp_path / "out")
    assert sum(written.values()) == len(cells)
    assert all(name.endswith("h200_sxm.vllm-0.25.1.csv.gz") for name in written)
    for name in written:
        with gzip.open(tmp_path / "out" / name, "rt") as file:
            rows = list(csv.DictReader(file))
        assert {r["split"] for r in rows} == {"test" if name.startswith("held_out/") else "train"}, name
        table = name.split("/")[-2]
        if table in ("gemm", "attn_decode", "attn_prefill", "moe"):
            assert {r["l2"] for r in rows} == {"cold"}
        if table == "attn_mixed":
            assert {(r["spread"], r["model"]) for r in rows} == {("0", "meta-llama/Llama-3.1-8B")}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name, order in (("a", [GEMM, OTHER]), ("b", [OTHER, GEMM])):
        write_lines(tmp_path / name / "sweep.jsonl", [session_line(), *(row_line(c, 1.0 + c.params[1]) for c in order)])
        write_tables(load_results([tmp_path / name]), tmp_path / f"{name}-out")
    file = "gemm/h200_sxm.torch-2.11.0.csv.gz"
    assert (tmp_path / "a-out" / file).read_bytes() == (tmp_path / "b-out" / file).read_bytes()


@pytest.mark.parametrize(
    ("change", "word"),
    [({"uuid": "GPU-2"}, "GPUs"), ({"driver": "590"}, "drivers"), ({"clocks": {"max_sm_mhz": 1500}}, "clock settings")],
)
def test_mixing_two_cards_or_clock_states_is_refused(tmp_path: Path, change: dict[str, object], word: str) -> None:
    write_lines(tmp_path / "a" / "sweep.jsonl", [session_line("s1"), row_line(GEMM, 1.0, "s1")])
    write_lines(tmp_path / "b" / "sweep.jsonl", [session_line("s2", **change), row_line(OTHER, 1.0, "s2")])
    with pytest.raises(UsageError, match=f"two {word}"):
        load_results([tmp_path / "a", tmp_path / "b"])


def test_unfit_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    cells = plan_cells(families=["gemm"])[:5]
    lines = [
        session_line(),
        row_line(cells[0], 1.0),
        row_line(cells[1], 1.0, reasons=0x40),
        row_line(cells[2], 1.0, sm_mhz=345),
        row_line(cells[3], 0.0),
        row_line(cells[4], 1.0, dry=True),
    ]
    write_lines(tmp_path / "sweep.jsonl", lines)
    measured = load_results([tmp_path])
    assert measured.keys == {cells[0].key}
    assert sum(measured.left_out.values()) == 4


def test_dry_rows_alone_are_no_dataset(tmp_path: Path) -> None:
    write_lines(tmp_path / "sweep.jsonl", [session_line(), row_line(GEMM, 1.0, dry=True)])
    with pytest.raises(UsageError, match="only dry or emulated runs"):
        load_results([tmp_path])


def test_rows_of_a_virtual_gpu_are_no_measurements(tmp_path: Path) -> None:
    emulated = {**session_line("s2"), "emulated": True}
    write_lines(tmp_path / "sweep.jsonl", [session_line(), row_line(GEMM, 1.0), emulated, row_line(OTHER, 1.0, "s2")])
    measured = load_results([tmp_path])
    assert measured.keys == {GEMM.key}
    assert measured.left_out == {"emulated": 1}


def test_a_pack_is_trained_from_measured_tables_and_completed(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    packs = pytest.importorskip("revati_predictors.packs")
    cells = [c for c in plan_cells(["llama-3.1-8b"], ["gemm"], [0, 1]) if c.params[0] == "bfloat16"]
    lines = [row_line(c, 4.0 + float(c.params[1]) * float(c.params[2]) * float(c.params[3]) / 3e8) for c in cells]
    write_lines(tmp_path / "r" / "sweep.jsonl", [session_line(), *lines])
    write_tables(load_results([tmp_path / "r"]), tmp_path / "tables")
    base = tmp_path / "base"
    (base / "h200-sxm").mkdir(parents=True)
    (base / "h200-sxm" / "moe.sec").write_bytes(b"x")
    section = {
        "file": "moe.sec",
        "variant": "moe",
        "sha256": "-",
        "family": "moe",
        "framework": "",
        "version": "",
        "rows": 1,
    }
    (base / "h200-sxm" / packs.MANIFEST).write_text(json.dumps({"sections": [section]}))
    said = train_pack(tmp_path / "tables", tmp_path / "pack", base)
    assert len(said) == 1 and said[0].startswith("h200-sxm/gemm.torch-2.11.0.sec")
    pack = packs.Pack(tmp_path / "pack" / "h200-sxm")
    assert {e.variant for e in pack.entries} == {"gemm", "moe"}
    assert pack.manifest["driver"] == "580.1"
    pack.section(next(e for e in pack.entries if e.variant == "gemm"))
    with pytest.raises(UsageError, match="not empty"):
        train_pack(tmp_path / "tables", tmp_path / "pack", base)


def test_the_plan_shrinks_by_what_is_measured_and_names_what_a_case_lacks(tmp_path: Path) -> None:
    case = tmp_path / "case.yaml"
    case.write_text("name: x\nmodel: llama-3.1-8b\ngpu: h200-sxm\n")
    empty = plan_text(600, case=case)
    first = plan_cells(["llama-3.1-8b"], tiers=[0])
    write_lines(tmp_path / "sweep.jsonl", [session_line(), *(row_line(c, 1.0) for c in first)])
    full = plan_text(600, [tmp_path], case)
    assert "cells are missing" in empty
    assert "nothing is missing" in full
    case.write_text("name: x\nmodel: gpt-9\ngpu: h200-sxm\n")
    with pytest.raises(UsageError, match="gpt-9"):
        plan_text(600, case=case)


def test_durations() -> None:
    assert [parse_duration(t) for t in ("90", "90s", "10m", "1.5h")] == [90, 90, 600, 5400]
    with pytest.raises(UsageError, match="10 minutes"):
        parse_duration("10 minutes")
