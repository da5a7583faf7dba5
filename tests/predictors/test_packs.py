"""Training, packs and the command line, on a small made-up table; and the packs that ship."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightgbm")

from revati_predictors import Gemm, find_gpu, load_predictor
from revati_predictors.build import train_all
from revati_predictors.cli import main
from revati_predictors.learned_predictor import LearnedPredictor
from revati_predictors.packs import PackError, installed_packs, load_pack, packs_root
from revati_predictors.roofline import gemm_us

MS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
NKS = (256, 512, 1024, 2048, 4096, 8192)
HEADER = ["gpu", "framework", "version", "kernel", "dtype", "m", "n", "k", "lat_us"]


def _row(m: int, n: int, k: int) -> list[object]:
    """Something like a GPU: the roofline times a smooth factor and a step at 100 rows."""
    us = float(gemm_us(find_gpu("h100-sxm"), "bfloat16", m, n, k)) * (1.3 + 0.1 * np.log2(n / k) / 5)
    us *= 1.1 if m > 100 else 1.0
    return ["h100_sxm", "vllm", "0.24.0", "x", "bfloat16", m, n, k, f"{us:.5g}"]


ALL = [_row(*shape) for shape in itertools.product(MS, NKS, NKS)]


def _write(path: Path, rows: list[list[object]], header: list[str] = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs from 80 % of the made-up table."""
    base = tmp_path_factory.mktemp("trained")
    kept = [row for row in ALL if random.Random(repr(row[5:8])).random() < 0.8]
    _write(base / "tables/gemm/h100_sxm.vllm-0.24.0.csv.gz", kept)
    (base / "tables/manifest.json").write_text(
        json.dumps([{"file": "gemm/h100_sxm.vllm-0.24.0.csv.gz", "license": "made up", "source": "this test"}])
    )
    train_all(base / "tables", base / "packs", trees=40, workers=1, say=lambda *a, **k: None)
    return base


def _predict(trained: Path, table: Path, out: Path, *more: str) -> list[dict[str, str]]:
    assert (
        main(
            [
                "predict",
                "--family",
                "gemm",
                "--gpu",
                "h100_sxm",
                "--table",
                str(table),
                "--out",
                str(out),
                "--packs",
                str(trained / "packs"),
                *more,
            ]
        )
        == 0
    )
    with out.open() as stream:
        return list(csv.DictReader(stream))


def test_second_run_is_byte_identical(trained: Path, tmp_path: Path) -> None:
    train_all(trained / "tables", tmp_path / "packs", trees=40, workers=1, say=lambda *a, **k: None)
    first = {p.relative_to(trained / "packs"): p.read_bytes() for p in (trained / "packs").rglob("*") if p.is_file()}
    second = {p.relative_to(tmp_path / "packs"): p.read_bytes() for p in (tmp_path / "packs").rglob("*") if p.is_file()}
    first = {k: v for k, v in first.items() if k.parts[0] != ".rows"}
    assert first and first == {k: v for k, v in second.items() if k.parts[0] != ".rows"}


def test_table_keeps_order_and_adds_columns(trained: Path, tmp_path: Path) -> None:
    rows = [*ALL[::-7], _row(100, 3000, 5000), _row(100000, 65536, 4096)]
    table = _write(tmp_path / "in.csv.gz", [[*row, "note"] for row in rows], [*HEADER, "extra"])
    got = _predict(trained, table, tmp_path / "out.csv")
    assert [(int(r["m"]), int(r["n"]), int(r["k"])) for r in got] == [tuple(row[5:8]) for row in rows]
    assert all(r["extra"] == "note" for r in got)
    assert all(0 < float(r["lo_us"]) <= float(r["pred_us"]) <= float(r["hi_us"]) for r in got)
    sources = [r["source"] for r in got]
    assert {"measured", "interpolated"} <= set(sources)
    assert sources[-2] == "interpolated" and sources[-1] == "extrapolated"
    for r, row in zip(got, rows):
        error = abs(float(r["pred_us"]) / float(str(row[-1])) - 1)
        assert error < {"measured": 0.001, "interpolated": 0.1, "extrapolated": 0.6}[r["source"]], (row, r)
    width = {s: np.mean([float(r["hi_us"]) / float(r["lo_us"]) for r in got if r["source"] == s]) for s in set(sources)}
    assert width["extrapolated"] > width["interpolated"]


def test_held_out_shapes_are_inside_their_intervals(trained: Path, tmp_path: Path) -> None:
    held = [row for row in ALL if random.Random(repr(row[5:8])).random() >= 0.8]
    got = _predict(trained, _write(tmp_path / "held.csv", held), tmp_path / "out.csv")
    inside = [float(r["lo_us"]) <= float(r["lat_us"]) <= float(r["hi_us"]) for r in got]
    assert np.mean(inside) > 0.6


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda h, r: (h[:-2] + h[-1:], [x[:-2] + x[-1:] for x in r]), ("line 1", "column k", "missing")),
        (lambda h, r: (h, [*r[:2], [*r[2][:5], "many", *r[2][6:]]]), ("line 4", "column m", "'many'")),
        (lambda h, r: (h, [*r[:1], [*r[1][:5], "0.5", *r[1][6:]]]), ("line 3", "column m", "0.5")),
        (lambda h, r: (h, [*r[:1], [*r[1][:5], "-4", *r[1][6:]]]), ("line 3", "column m", "-4")),
        (lambda h, r: (h, [*r[:1], [*r[1][:4], "float17", *r[1][5:]]]), ("line 3", "column dtype", "float17")),
        (lambda h, r: (h, [*r[:1], r[1][:-3]]), ("line 3", "fields")),
    ],
)
def test_bad_tables_name_file_line_and_column(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, words: tuple[str, ...]
) -> None:
    header, rows = change(list(HEADER), [list(r) for r in ALL[:4]])  # type: ignore[operator]
    table = _write(tmp_path / "bad.csv", rows, header)
    out = tmp_path / "out.csv"
    code = main(
        [
            "predict",
            "--family",
            "gemm",
            "--gpu",
            "h100-sxm",
            "--table",
            str(table),
            "--out",
            str(out),
            "--packs",
            str(trained / "packs"),
        ]
    )
    said = capsys.readouterr().err
    assert code == 2 and not out.exists() and said.count("\n") == 1
    assert "bad.csv" in said and all(word in said for word in words), said


def test_one_shape_for_people(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packs = str(trained / "packs")
    assert (
        main(["predict", "gemm", "--gpu", "h100-sxm", "-m", "512", "-n", "4096", "-k", "4096", "--packs", packs]) == 0
    )
    assert "80 % interval" in capsys.readouterr().out
    assert main(["predict", "gemm", "--gpu", "h100-sxm", "-m", "512", "-n", "4096", "--packs", packs]) == 2
    assert "-k" in capsys.readouterr().err
    assert main(["predict", "gemm", "--gpu", "h1000", "-m", "1", "-n", "1", "-k", "1"]) == 2
    assert "h100-sxm" in capsys.readouterr().err
    assert main(["packs", "--packs", packs]) == 0
    listed = capsys.readouterr().out
    assert "h100-sxm" in listed and "transfer" in listed and "made up" in listed


def _copy(trained: Path, to: Path) -> Path:
    pack = to / "h100-sxm"
    pack.mkdir(parents=True)
    for path in (trained / "packs/h100-sxm").iterdir():
        (pack / path.name).write_bytes(path.read_bytes())
    return pack


def test_pack_without_manifest_or_with_a_wrong_hash_is_not_loaded(trained: Path, tmp_path: Path) -> None:
    pack = _copy(trained, tmp_path / "a")
    (pack / "manifest.json").unlink()
    with pytest.raises(PackError, match="no manifest"):
        LearnedPredictor(find_gpu("h100-sxm"), root=tmp_path / "a")
    pack = _copy(trained, tmp_path / "b")
    section = next(pack.glob("*.sec"))
    section.write_bytes(section.read_bytes()[:-1] + b"!")
    with pytest.raises(PackError, match="SHA-256"):
        LearnedPredictor(find_gpu("h100-sxm"), root=tmp_path / "b").predict([Gemm(8, 512, 512)])


def test_other_gpus_borrow_the_ratio_and_say_so(trained: Path) -> None:
    own = LearnedPredictor(find_gpu("h100-sxm"), root=trained / "packs").predict([Gemm(64, 4096, 4096)])[0]
    nvl = LearnedPredictor(find_gpu("h100-nvl"), root=trained / "packs").predict([Gemm(64, 4096, 4096)])[0]
    assert own.source in (0, 1) and nvl.source == 2
    ratio = [float(gemm_us(find_gpu(k), "bfloat16", 64, 4096, 4096)) for k in ("h100-sxm", "h100-nvl")]
    assert nvl.us / own.us == pytest.approx(ratio[1] / ratio[0], rel=1e-3)
    assert nvl.hi_us / nvl.lo_us > 1.4


# --- what ships ------------------------------------------------------------------------------------------------------

SHIPPED = pytest.mark.skipif(not packs_root().is_dir(), reason="no packs in this tree")


@SHIPPED
def test_shipped_packs_are_complete_and_small() -> None:
    packs = {pack.gpu.key: pack for pack in installed_packs()}
    for key in ("h100-sxm", "h200-sxm", "a100-sxm", "l40s", "b200-sxm", "rtx-pro-6000"):
        assert {"gemm", "attn_prefill", "attn_decode", "moe", "comm"} <= {e.family for e in packs[key].entries}, key
    for pack in packs.values():
        assert pack.entries or pack.transfer_from
        for entry in pack.entries:
            pack.section(entry)  # checks the hash
            assert entry.raw["licence"] in ("Apache-2.0", "MIT") and entry.raw["held_out"]
    assert sum(p.stat().st_size for p in packs_root().rglob("*") if p.is_file()) < 40e6


@SHIPPED
def test_every_catalogue_gpu_predicts_every_kind() -> None:
    from revati_predictors import GPUS, Attention, Collective, Mla, Moe

    ops = [
        Gemm(8, 6144, 4096),
        Gemm(8, 28672, 4096),
        Gemm(8, 6144, 4096, "fp8", 1, True),
        Gemm(64, 128, 512, batch=16),
        Attention(((1, 900), (1, 90000), (700, 1700)), 32, 8, 128),
        Attention(((5000, 5000),), 28, 4, 128),
        Mla(((1, 4000),) * 4, 16),
        Moe(64, 2048, 768, 8, 128),
        Moe(64, 4096, 1536, 8, 128, 1, 8, "fp8"),
        Collective("all_reduce", 65536, 8, 1, "custom"),
        Collective("all_gather", 1 << 20, 4),
    ]
    for key in GPUS:
        for op, e in zip(ops, load_predictor(key).predict(ops)):
            assert 0.5 < e.lo_us <= e.us <= e.hi_us < 1e6, (key, op, e)


@SHIPPED
def test_another_version_takes_the_nearest_table() -> None:
    """Off-node collectives of a version that nobody measured come from the nearest one, not from the roofline."""
    from revati_predictors import Collective, RooflinePredictor

    op = Collective("all_reduce", 100_000, 4, 1, "custom")
    known, new = (load_predictor("h100-sxm", "auto", "vllm", v).predict([op])[0] for v in ("0.24.0", "0.25.1"))
    assert new.us == known.us and new.source == 1
    assert new.us != pytest.approx(RooflinePredictor(find_gpu("h100-sxm")).predict([op])[0].us, rel=1e-6)
    nodes = [
        load_predictor("h100-sxm", "auto", "vllm", v).predict([Collective("all_reduce", 1 << 20, 4, 1, "custom")])[0]
        for v in ("0.24.0", "0.25.1")
    ]
    assert nodes[0].us == nodes[1].us and nodes[1].source == 1


@SHIPPED
def test_unequal_sequences_count_individually() -> None:
    from revati_predictors import Attention

    predictor = load_predictor("h100-sxm")

    def us(*seqs: tuple[int, int]) -> float:
        return predictor.predict([Attention(seqs, 32, 8, 128)])[0].us

    skewed = us(*[(1, 100)] * 31, (1, 60000))
    mean = us(*[(1, 60000 // 32 + 97)] * 32)
    assert skewed >= us((1, 60000)) * 0.999  # no batch ends before its longest sequence
    assert abs(skewed - mean) > 1.0
    assert us((1, 1000), (1000, 1000)) > max(us((1, 1000)), us((1000, 1000)))


@SHIPPED
def test_the_pack_of_another_gpu_is_not_touched() -> None:
    load_pack.cache_clear()
    load_predictor("l40s").predict([Gemm(8, 4096, 4096)])
    assert load_pack("b200-sxm") is not load_pack("l40s")


def test_a_reader_that_has_seen_enough() -> None:
    command = [sys.executable, "-m", "revati_predictors", "packs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as packs:
        assert packs.stdout is not None and packs.stderr is not None
        packs.stdout.close()
        assert (packs.stderr.read(), packs.wait(60)) == ("", 0)
