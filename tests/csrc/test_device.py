"""The virtual device from C: each program is linked against the preload library and run under emulation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from revati._hostcheck import preload_library

PROGRAMS = Path(__file__).resolve().parent / "programs"
Call = Callable[..., "subprocess.CompletedProcess[str]"]


def build(name: str, folder: Path) -> Path:
    """Compiles programs/NAME.c and links it with the library under test."""
    target = folder / name
    library = preload_library()
    # The library's SONAME is libcuda.so.1: the loader takes the preloaded one for it.
    subprocess.run(
        [
            "cc",
            "-std=gnu11",
            "-Wall",
            "-O1",
            f"-I{PROGRAMS}",
            str(PROGRAMS / f"{name}.c"),
            "-o",
            str(target),
            str(library),
        ],
        check=True,
    )
    return target


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("name", ["memory", "timeline", "graph", "interface", "layouts"])
def test_program(name: str, revati: Call, tmp_path: Path) -> None:
    program = build(name, tmp_path)
    done = revati(
        "run", "--quiet", "--gpu", "h100-sxm", "--policy", "free", "--predictor", "constant:2", "--", str(program)
    )
    assert (done.returncode, done.stdout.strip()) == (0, "passed"), done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_threads_change_known_bytes_side_by_side(revati: Call, tmp_path: Path) -> None:
    """In the order in which waits end: with turns, which come one at a time, nothing would happen at once."""
    program = build("neighbours", tmp_path)
    done = revati("run", "--quiet", "--gpu", "h100-sxm", "--policy", "free", "--order", "fired", "--", str(program))
    assert (done.returncode, done.stdout.strip()) == (0, "passed"), done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_api_servers_time_has_passed_before_its_work_goes_on(revati: Call, tmp_path: Path) -> None:
    program = build("handover", tmp_path)
    done = revati("run", "--quiet", "--gpu", "h100-sxm", "--policy", "modelled", "--", str(program))
    assert (done.returncode, done.stdout.strip()) == (0, "passed"), done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_what_a_batch_asks_and_what_no_table_covers(revati: Call, tmp_path: Path) -> None:
    program, report = build("batches", tmp_path), tmp_path / "report.json"
    options = ("--quiet", "--gpu", "h100-sxm", "--policy", "free", "--predictor", "roofline", "--report", str(report))
    said = []
    for order in ((), ("backwards",)):
        done = revati("run", *options, "--", str(program), *order)
        assert (done.returncode, done.stdout.strip()) == (0, "passed"), done.stdout + done.stderr
        said.append(json.loads(report.read_text()))
    forwards, backwards = said
    # Sampling asks by the number of sequences (2), attention by their lengths, the rest once. From the second step on
    # attention asks for four steps ahead, then for eight and sixteen: the first, second, seventh and sixteenth step
    # wait for it, and the first of three sequences.
    assert forwards["use"]["memo_misses"] == 2 + 5 + 1
    assert backwards["use"]["memo_misses"] == 2 + 22 + 1
    assert forwards["predictor_service"]["records"] == 2 + 5 + 1
    assert forwards["use"]["source_ns"] == backwards["use"]["source_ns"]
    uncovered = {row["operator"]: row["us"] for row in forwards["predictor_service"]["uncovered"]}
    assert set(uncovered) == {"_gumbel_sample_kernel", "flash_fwd_kernel", "unknown"}
    assert sum(uncovered.values()) == pytest.approx(sum(forwards["use"]["source_ns"].values()) / 1e3)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize(
    ("gpu", "images", "ptx", "binary", "error"),
    [
        ("l40s", "sm_75,sm_80,sm_86,sm_90,sm_100,sm_120", 86, 86, 0),
        ("l40s", "sm_80,sm_89,sm_90", 89, 89, 0),
        ("l40s", "sm_75,sm_90,compute_75,compute_80,compute_90", 80, 89, 0),
        ("l40s", "sm_75,sm_90,compute_90", 0, 0, 209),  # cudaErrorNoKernelImageForDevice
        ("h100-sxm", "sm_80,sm_86,sm_90,sm_90,sm_100", 90, 90, 0),
        ("h100-sxm", "sm_80,sm_86,sm_120", 0, 0, 209),
        ("h100-sxm", "sm_80,other_0", 90, 90, 0),  # a kind that is not known may be anything
        ("h100-sxm", "", 90, 90, 0),
    ],
)
def test_the_image_that_a_device_takes(
    revati: Call, tmp_path: Path, gpu: str, images: str, ptx: int, binary: int, error: int
) -> None:
    program = build("images", tmp_path)
    done = revati("run", "--quiet", "--gpu", gpu, "--policy", "free", "--", str(program), images)
    assert done.stdout.split() == [str(n) for n in (error, ptx, binary, error)], done.stderr


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_unsupported_call_is_reported_once_with_its_caller(revati: Call, tmp_path: Path) -> None:
    source = tmp_path / "caller.c"
    source.write_text(
        "int cudaMallocArray(void); int main(void) { cudaMallocArray(); return cudaMallocArray() != 801; }"
    )
    program = tmp_path / "caller"
    subprocess.run(["cc", str(source), "-o", str(program), str(preload_library())], check=True)
    done = revati("run", "--quiet", "--gpu", "h100-sxm", "--", str(program))
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "cudaMallocArray" in line]
    assert len(lines) == 1
    assert re.search(
        r"cudaMallocArray\(.*\) is not supported .*called from .*/caller\); it answers error 801", lines[0]
    )


def test_no_device_without_emulation(tmp_path: Path) -> None:
    """A program that happens to be linked with the library and runs outside sees no GPU, and nothing crashes."""
    source = tmp_path / "outside.c"
    source.write_text(
        "int cudaGetDeviceCount(int *); int main(void) { int n = 9; return cudaGetDeviceCount(&n) != 100 || n; }"
    )
    program = tmp_path / "outside"
    library = preload_library()
    (tmp_path / "libcuda.so.1").symlink_to(library)
    subprocess.run(["cc", str(source), "-o", str(program), str(library)], check=True)
    assert subprocess.run([str(program)], env={"LD_LIBRARY_PATH": str(tmp_path)}).returncode == 0
