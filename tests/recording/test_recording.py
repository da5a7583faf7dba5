"""`revati record` in front of the virtual device: what is recorded must equal what the device was told to do."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from revati._hostcheck import preload_library, recorder_library
from revati._serving import serving_command
from revati.calibration.dataset import load_results
from revati.calibration.hostprofile import host_profile
from revati.recording import spool
from revati.recording.parquet import read_metadata, steps_path, write_recording
from revati.recording.table import pair
from revati_predictors.wire import KIND, OpRecord
from tests.recording.helpers import (
    ROOT,
    compile_c,
    compile_program,
    needs_tools,
    record,
    report_of,
    rows_of,
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
LAUNCHES_OF_THREAD = 10_000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    out = folder / "work.parquet"
    done = record(out, [str(compile_program("work", folder))])
    assert (done.returncode, done.stdout) == (0, "passed\n"), done.stderr
    return out


@needs_tools
def test_every_operator_is_there_with_its_duration(recorded: Path) -> None:
    rows, pairing = rows_of(recorded), read_metadata(recorded)["pairing"]
    seen = Counter((r["call"], r["kind"], r["name"], r["p"][0]) for r in rows)
    assert seen == {
        ("cudaLaunchKernel", "kernel", "two_microseconds", 1): LAUNCHES_OF_THREAD + 2,
        ("cudaMemcpyAsync", "copy", "h2d", 1000): 1,
        ("cudaMemcpyAsync", "copy", "h2d", 64): 1,
        ("cudaMemcpyAsync", "copy", "d2d", 128): 1,
        ("cudaMemcpy", "copy", "d2h", 32): 1,
        ("cudaMemsetAsync", "memset", "", 256): 1,
        ("cuMemsetD8Async", "memset", "", 77): 1,
        ("cuMemcpyDtoDAsync_v2", "copy", "d2d", 99): 1,
        ("cublasGemmEx", "gemm", "", 8): 1,
        ("ncclAllReduce", "collective", "all_reduce", 400): 1,
        ("ncclGroupEnd", "collective", "group", 120): 1,
        ("cudaGraphLaunch", "graph", "", 3): 2,
    }
    assert (pairing["captured"], pairing["failed"], pairing["untimed"], pairing["unowned"]) == (3, 1, 0, 0)
    longer = {"graph": 6000, "group": 4000}  # three nodes; the virtual NCCL runs the two of a group one by one
    assert {r["duration_ns"] for r in rows if r["kind"] not in longer and r["name"] not in longer} == {2000}
    assert {r["duration_ns"] for r in rows if r["kind"] in longer} == {6000}
    assert {r["duration_ns"] for r in rows if r["name"] in longer} == {4000}
    assert {r["method"] for r in rows} == {"event"}


@needs_tools
def test_sums_are_what_the_device_booked(recorded: Path) -> None:
    use = report_of(recorded)
    assert sum(read_metadata(recorded)["pairing"]["family_ns"].values()) == sum(use["family_ns"].values())


@needs_tools
def test_what_a_row_says_besides(recorded: Path) -> None:
    rows = rows_of(recorded)
    product = next(r for r in rows if r["kind"] == "gemm")
    assert product["p"][:4] == [8, 64, 128, 1] and product["dtype"] == "bf16" and product["family"] == "gemm"
    pageable = {(r["name"], r["p"][0]) for r in rows if r["pageable"]}
    assert pageable == {("h2d", 64), ("d2h", 32)}
    steps = rows_of(steps_path(recorded))
    assert [(s["q_lens"], s["kv_lens"], s["padded"]) for s in steps] == [([5, 1], [5, 300], 8), ([5], [5], 0)]
    assert sum(s["calls"] for s in steps) == len(rows) - 1  # one launch came before the first batch
    assert {(r["step"], r["nseq"], r["tokens"]) for r in rows} == {(0, 0, 0), (1, 2, 6), (2, 1, 5)}


@needs_tools
def test_host_calls_are_counted(recorded: Path) -> None:
    calls = read_metadata(recorded)["host_calls"]
    assert calls["cudaLaunchKernel"]["calls"] == LAUNCHES_OF_THREAD + 2 + 2  # two were captured
    assert calls["cudaDeviceSynchronize"]["calls"] == 1
    assert calls["cudaMalloc"]["calls"] == 5


@needs_tools
def test_nodes_of_graphs(tmp_path: Path) -> None:
    out = tmp_path / "nodes.parquet"
    done = record(out, [str(compile_program("work", tmp_path))], "--graph-nodes")
    assert done.returncode == 0, done.stderr
    rows = rows_of(out)
    nodes = [r for r in rows if r["node"]]
    assert [(r["kind"], r["duration_ns"], r["call"]) for r in nodes] == 2 * [
        ("kernel", 2000, "cudaGraphLaunch"),
        ("memset", 2000, "cudaGraphLaunch"),
        ("kernel", 2000, "cudaGraphLaunch"),
    ]
    assert [r["duration_ns"] for r in rows if r["kind"] == "graph"] == [0, 0]  # all is explained by the nodes
    assert read_metadata(out)["pairing"]["graph_launches_with_nodes"] == 2


@needs_tools
def test_a_killed_program_leaves_what_it_did(tmp_path: Path) -> None:
    out = tmp_path / "killed.parquet"
    done = record(out, [str(compile_program("work", tmp_path))], DIE="1")
    pairing = read_metadata(out)["pairing"]
    assert done.returncode == 3
    # Only the launch that nobody waited for has no duration.
    assert (pairing["operators"], pairing["untimed"]) == (LAUNCHES_OF_THREAD + 14, 1)


@needs_tools
def test_an_interrupted_recording_is_finished_later(
    tmp_path: Path, revati: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = tmp_path / "later.parquet"
    program = compile_program("work", tmp_path)
    assert record(out, [str(program)], "--keep").returncode == 0
    first = out.read_bytes()
    out.unlink()
    again = record(out, [str(program)])
    assert again.returncode == 2 and "left of an interrupted recording" in again.stderr
    assert revati("record", "--finish", "--out", str(out)).returncode == 0
    assert out.read_bytes() == first and not out.with_name("later.parquet.raw").exists()
    missing = revati("record", "--finish", "--out", str(out))
    assert missing.returncode == 2 and "no interrupted recording" in missing.stderr


# --- CUPTI, made up -----------------------------------------------------------------------------------------------


@needs_tools
def test_activity_records_find_their_calls(tmp_path: Path) -> None:
    out = tmp_path / "cupti.parquet"
    fake = compile_c("fake_cupti", tmp_path, "-shared", "-fPIC")
    done = record(out, [str(compile_program("cupti_user", tmp_path))], "--method", "cupti", REVATI_CUPTI=str(fake))
    assert (done.returncode, done.stdout) == (0, "passed\n"), done.stderr
    rows, pairing = rows_of(out), read_metadata(out)["pairing"]
    found = sorted((r["call"], r["kind"], r["kernel"], r["duration_ns"], r["records"]) for r in rows)
    assert found == sorted(
        [
            ("cudaLaunchKernel", "kernel", "one", 100, 1),
            ("cudaLaunchKernel", "kernel", "split_part", 200, 2),
            ("cudaMemcpyAsync", "copy", "", 300, 1),
            ("cudaLaunchKernel", "kernel", "one", 400, 1),
            ("", "kernel", "nobodys", 77, 1),
            *2 * [("cudaGraphLaunch", "kernel", "in_graph", 10, 1), ("cudaGraphLaunch", "memset", "in_graph", 20, 1)],
            # The launch: from the first node's start to the last one's end, less the nodes.
            *2 * [("cudaGraphLaunch", "graph", "", 1020 - 30, 0)],
        ]
    )
    assert {r["name"] for r in rows if r["kind"] == "kernel"} == {"asked_for", "nobodys"}
    assert (pairing["operators"], pairing["timed"], pairing["unowned"], pairing["captured"]) == (6, 6, 1, 2)
    assert pairing["graph_launches_with_nodes"] == 2
    starts = [r["start_ns"] for r in rows]
    assert starts == sorted(starts)


@needs_tools
def test_a_recording_is_input_to_a_calibration(
    tmp_path: Path, revati: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The virtual device's recording is refused; the same records said to be a card's become rows and host costs."""
    out = tmp_path / "emulated.parquet"
    fake = compile_c("fake_cupti", tmp_path, "-shared", "-fPIC")
    program = str(compile_program("cupti_user", tmp_path))
    assert record(out, [program], "--keep", REVATI_CUPTI=str(fake)).returncode == 0
    refused = revati("calibrate", "export", str(out), "--out", str(tmp_path / "none"))
    assert refused.returncode == 2 and "only dry or emulated runs" in refused.stderr
    refused = revati("calibrate", "host", str(out))
    assert refused.returncode == 2 and "recorded on a virtual GPU" in refused.stderr

    card = {"name": "NVIDIA H200", "uuid": "GPU-1", "driver": "1", "clocks": {}}
    facts = {"emulated": False, "gpu": card, "versions": {"torch": "2.11.0"}, "time": "t", "command": "c"}
    real = tmp_path / "card.parquet"
    write_recording(out.with_name("emulated.parquet.raw"), real, facts)
    measured = load_results([real])
    assert [(r["family"], r["direction"], r["memory"], r["bytes"], r["lat_us"]) for r in measured.rows] == [
        ("copy", "h2d", "pageable", 16, 0.3),
        ("copy", "memset", "device", 4096, 0.02),
    ]
    assert measured.gpu == "h200_sxm" and measured.left_out["recorded other"] == 8
    assert {"launch_ns", "graph_launch_ns", "copy_ns", "malloc_ns"} == set(host_profile(real)["calls"])


@needs_tools
def test_another_profiler_is_named(tmp_path: Path) -> None:
    fake = compile_c("fake_cupti", tmp_path, "-shared", "-fPIC", "-DBUSY")
    program = str(compile_program("work", tmp_path))
    out = tmp_path / "busy.parquet"
    done = record(out, [program], REVATI_CUPTI=str(fake))
    assert re.search(r"torch\.profiler.* switch it off: durations come from CUDA events", done.stderr)
    assert read_metadata(out)["pairing"]["untimed"] == 0
    only = tmp_path / "only.parquet"
    done = record(only, [program], "--method", "cupti", REVATI_CUPTI=str(fake))
    assert "durations are NOT recorded" in done.stderr
    assert read_metadata(only)["pairing"]["timed"] == 0


@needs_tools
def test_declared_records_are_cuptis(tmp_path: Path) -> None:
    places = ("nvidia/**/include/cupti.h", "triton/backends/nvidia/include/cupti.h")
    folders = {path.parent for root in map(Path, sys.path) for place in places for path in root.glob(place)}
    if not folders:
        pytest.skip("no CUPTI headers are installed")
    for folder in folders:
        source = ROOT / "csrc" / "tests" / "record" / "layout.c"
        subprocess.run(
            ["cc", "-std=gnu11", "-fsyntax-only", f"-I{folder}", f"-I{ROOT / 'csrc'}", str(source)], check=True
        )


# --- a card's libraries, made up ----------------------------------------------------------------------------------


@needs_tools
def test_libraries_that_only_extension_modules_load(tmp_path: Path) -> None:
    """Without the virtual device: the real functions are found in libraries outside the global scope."""
    for name, flags in (
        ("libcuda.so.1", ["-DDRIVER", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]),
        ("libcudart.so.13", ["-DRUNTIME", "-shared", "-fPIC", "-Wl,-soname,libcudart.so.13"]),
        ("libextension.so", ["-DEXTENSION", "-shared", "-fPIC", str(tmp_path / "libcudart.so.13")]),
        ("program", []),
    ):
        compile_c("card", tmp_path, *flags).rename(tmp_path / name)
    raw, out = tmp_path / "raw", tmp_path / "card.parquet"
    raw.mkdir()
    variables = {
        "LD_PRELOAD": str(recorder_library()),
        "LD_LIBRARY_PATH": str(tmp_path),
        "REVATI_RECORD": str(raw),
        "REVATI_RECORD_METHOD": "event",
    }
    done = subprocess.run([str(tmp_path / "program")], env=variables, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "passed\n", "")
    write_recording(raw, out, {})
    assert [(r["call"], r["name"], r["p"][0], r["duration_ns"]) for r in rows_of(out)] == [
        *3 * [("cudaLaunchKernel", "runtime_kernel", 2, 7000)],
        ("cuLaunchKernel", "driver_kernel", 4, 7000),
        ("cuLaunchKernel", "driver_kernel", 5, 7000),
    ]


@needs_tools
def test_calls_without_any_library(tmp_path: Path) -> None:
    """The recorder alone, no driver: one sentence, and an error code that the program can act on."""
    source = tmp_path / "alone.c"
    source.write_text("int cudaMalloc(void **, long); int main(void) { void *p; return cudaMalloc(&p, 8) != 999; }")
    program = tmp_path / "alone"
    subprocess.run(["cc", str(source), "-o", str(program), str(recorder_library())], check=True)
    variables = {"REVATI_RECORD": str(tmp_path), "LD_LIBRARY_PATH": str(recorder_library().parent)}
    done = subprocess.run([str(program)], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr.startswith("revati record: cudaMalloc was called, and no CUDA library of this process has it")


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm (binutils)")
def test_observers_find_their_functions_without_a_virtual_device() -> None:
    def functions(library: Path) -> set[str]:
        listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
        names = (line.split()[-1] for line in listed.stdout.splitlines())
        return {name for name in names if name.startswith("revati_observe")}

    assert functions(recorder_library()) == functions(preload_library())


# --- parts --------------------------------------------------------------------------------------------------------


def test_the_mirror_of_the_format() -> None:
    header = (ROOT / "csrc" / "include" / "rvt_record.h").read_text()
    for prefix, mirror in (("RVT_REC_", spool.TYPES), ("RVT_CALL_", spool.FLAGS)):
        listed = {n: int(v) for n, v in re.findall(rf"\b{prefix}([A-Z]+) = (\d+)", header)}
        assert listed == mirror
    assert int(re.search(r"RVT_RECORD_VERSION (\d+)", header)[1]) == spool.VERSION  # type: ignore[index]
    body = re.search(r"struct rvt_record \{(.*?)\n\};", header, re.S)[1]  # type: ignore[index]
    names = re.findall(r"[ ,](\w+)(?=[,;])", re.sub(r"/\*.*?\*/", "", body, flags=re.S))
    assert tuple(names) == spool.RECORD.names and spool.RECORD.itemsize == 64
    assert f"RVT_HIST_BUCKETS {spool.HIST_BUCKETS}\n" in header and f"RVT_HIST_FIRST {spool.HIST_FIRST}\n" in header


Entries = list[dict[str, int]]


def _process(calls: Entries, works: Entries, links: list[tuple[int, int]]) -> spool.ProcessRecords:
    def table(entries: Entries) -> spool.Records:
        out = np.zeros(len(entries), spool.RECORD)
        for row, entry in zip(out, entries):
            for name, value in entry.items():
                row[name] = value
        return out

    process = spool.ProcessRecords(
        1, table(calls), table(works), table([{"correlation": ours, "value": theirs} for ours, theirs in links])
    )
    process.ops = {1: OpRecord(KIND["KERNEL"], name="k", p=(0,) * 16)}
    return process


def test_records_without_owner_and_owners_without_record() -> None:
    process = _process(
        [{"type": 1, "op": 1, "correlation": 10}, {"type": 1, "op": 1, "correlation": 11}],
        [
            {"type": 2, "method": 2, "value": 5, "begin_ns": 100, "end_ns": 130, "step": 1},
            {"type": 2, "method": 2, "value": 6, "begin_ns": 200, "end_ns": 207, "step": 1},
        ],
        [(10, 5)],
    )
    rows, pairing = pair(process)
    assert (pairing.operators, pairing.timed, pairing.untimed, pairing.unowned) == (2, 1, 1, 1)
    assert sorted(rows["duration_ns"].tolist()) == [-1, 7, 30]


def test_a_recorded_server_is_a_server() -> None:
    command = ["/x/bin/revati", "record", "--out", "f.parquet", "--", "vllm", "serve", "m", "--port", "81"]
    serving = serving_command(command)
    assert serving is not None and (serving.model, serving.port) == ("m", 81)
    assert serving_command(["/x/bin/revati", "record", "--finish", "--out", "f.parquet"]) is None


# --- errors -------------------------------------------------------------------------------------------------------


def test_without_any_gpu(tmp_path: Path, revati: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = revati("record", "--out", str(tmp_path / "x.parquet"), "--", "true")
    assert done.returncode == 3
    assert done.stderr.startswith("revati: there is no GPU to record on; without one, record on a virtual one: revati")
    assert len(done.stderr.splitlines()) == 1


def test_a_command_without_cuda(tmp_path: Path) -> None:
    done = record(tmp_path / "x.parquet", ["true"])
    assert done.returncode == 4 and "nothing was recorded: the command ended with code 0" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]  # the run's own report


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from revati._errors import HostError
    from revati.recording.parquet import need_pyarrow

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(HostError, match=r"pip install 'revati\[calibrate\]'"):
        need_pyarrow()


# --- torch --------------------------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch (comes with vLLM)")
def test_torch_with_graphs(tmp_path: Path) -> None:
    """Durations from the real predictor: each family's sum is what the device booked, to the nanosecond."""
    out = tmp_path / "torch.parquet"
    program = ROOT / "tests" / "frameworks" / "programs" / "torch_kernels.py"
    done = record(out, [sys.executable, str(program)], "--graph-nodes", predictor="auto", timeout=300)
    assert done.returncode == 0, done.stderr
    use, pairing = report_of(out), read_metadata(out)["pairing"]
    assert (pairing["untimed"], pairing["unowned"], pairing["failed"]) == (0, 0, 0)
    assert pairing["graph_launches_with_nodes"] == pairing["graph_launches"] == 2
    booked = {family: ns for family, ns in use["family_ns"].items() if ns}
    assert pairing["family_ns"] == booked
    assert pairing["family_count"] == {family: n for family, n in use["launches"].items() if n}
