"""Facts of a real GPU for the device catalogue: attributes, NVML's answers, memory taken by each step of a program,
API call costs.

Each step runs in a process of its own, because what it measures (memory of a context, of a module, of a library)
exists once a process. Raw answers are kept (numbers, return codes, structure bytes); turning them into catalogue
entries happens elsewhere.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from revati.calibration.measure.conditions import NoGpuError, open_nvml, session_facts, version_of
from revati.calibration.measure.nvml import Nvml
from revati.calibration.rows import RowWriter

__all__ = ["STEPS", "main", "run_facts"]

_LIMITS = {"stack": 0, "printf_fifo": 1, "malloc_heap": 2, "sync_depth": 3, "pending_launches": 4, "l2_granularity": 5}


def _nvml_answers(_: bool) -> dict[str, Any]:
    nvml = Nvml()
    return {"answers": nvml.answers(), "identity": nvml.identity()}


def _attributes(_: bool) -> dict[str, Any]:
    """Every device attribute by number, from the driver and from the runtime, and the raw property structure."""
    driver = ctypes.CDLL("libcuda.so.1")
    _check(driver.cuInit(0), "cuInit")
    device, value = ctypes.c_int(), ctypes.c_int()
    _check(driver.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    by_driver = {
        n: value.value for n in range(1, 200) if driver.cuDeviceGetAttribute(ctypes.byref(value), n, device) == 0
    }
    name, uuid, bus = (ctypes.create_string_buffer(n) for n in (100, 16, 32))
    driver.cuDeviceGetName(name, 100, device)
    driver.cuDeviceGetUuid_v2(uuid, device)
    total, version = ctypes.c_size_t(), ctypes.c_int()
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    facts: dict[str, Any] = {
        "driver_attributes": by_driver,
        "name": name.value.decode(),
        "uuid": uuid.raw.hex(),
        "total_bytes": total.value,
        "driver_version": version.value,
    }
    runtime = _runtime()
    facts["runtime_attributes"] = {
        n: value.value for n in range(1, 200) if runtime.cudaDeviceGetAttribute(ctypes.byref(value), n, 0) == 0
    }
    runtime.cudaRuntimeGetVersion(ctypes.byref(version))
    facts["runtime_version"] = version.value
    properties = ctypes.create_string_buffer(8192)
    for call in ("cudaGetDeviceProperties", "cudaGetDeviceProperties_v2"):
        function = getattr(runtime, call, None)
        if function is not None and function(properties, 0) == 0:
            facts[call] = properties.raw.rstrip(b"\0").hex()
    runtime.cudaDeviceGetPCIBusId(bus, 32, 0)
    facts["pci_bus_id"] = bus.value.decode()
    runtime.cudaFree(None)
    size = ctypes.c_size_t()
    facts["limits"] = {
        k: size.value for k, n in _LIMITS.items() if runtime.cudaDeviceGetLimit(ctypes.byref(size), n) == 0
    }
    low, high = ctypes.c_int(), ctypes.c_int()
    runtime.cudaDeviceGetStreamPriorityRange(ctypes.byref(low), ctypes.byref(high))
    facts["stream_priorities"] = [low.value, high.value]
    return facts


class _Memory:
    """Notes the card's memory step by step: what NVML counts as used and what the runtime calls free."""

    def __init__(self) -> None:
        self.nvml = Nvml()
        self.steps: list[dict[str, Any]] = []
        self.note("nothing")

    def note(self, step: str, torch: Any = None) -> None:
        entry: dict[str, Any] = {"step": step, "nvml": self.nvml.memory()}
        if torch is not None:
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            entry.update(
                free=free,
                total=total,
                torch_allocated=torch.cuda.memory_allocated(),
                torch_reserved=torch.cuda.memory_reserved(),
            )
        self.steps.append(entry)


def _memory_context(_: bool) -> dict[str, Any]:
    memory = _Memory()
    driver = ctypes.CDLL("libcuda.so.1")
    _check(driver.cuInit(0), "cuInit")
    memory.note("cuInit")
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), "cuDevicePrimaryCtxRetain")
    driver.cuCtxSetCurrent(context)
    memory.note("primary context")
    driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    facts: dict[str, Any] = {"free": free.value, "total": total.value}
    # Granularity: what a small allocation takes, and whether the second one takes more.
    pointer = ctypes.c_uint64()
    taken = []
    for size in (1, 1, 512, 1 << 20, 1 << 20, 2 << 20, (2 << 20) + 1, 3 << 20, 20 << 20):
        driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        before = free.value
        driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size))
        driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        taken.append([size, before - free.value, pointer.value % (2 << 20)])
    return {**facts, "allocations": taken, "steps": memory.steps}


def _memory_torch(_: bool) -> dict[str, Any]:
    memory = _Memory()
    import torch

    memory.note("import torch")
    torch.cuda.init()
    memory.note("torch.cuda.init", torch)
    x = torch.empty(1, device="cuda")
    memory.note("first allocation", torch)
    x.fill_(1)
    memory.note("first kernel (fill)", torch)
    y = torch.randn(1024, 1024, device="cuda")
    memory.note("randn", torch)
    half = y.bfloat16()
    memory.note("conversion", torch)
    half @ half
    memory.note("first product (cuBLAS handle and workspace)", torch)
    torch.nn.functional.linear(half, half, half[0])
    memory.note("product with bias (cuBLASLt)", torch)
    y @ y
    memory.note("float32 product", torch)
    y.sort(dim=-1)
    memory.note("sort", torch)
    with torch.cuda.stream(torch.cuda.Stream()):
        half @ half
    memory.note("product on a second stream (second workspace)", torch)
    facts: dict[str, Any] = {"workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")}
    if version_of("vllm"):
        try:
            from vllm.platforms import current_platform

            memory.note("import vllm platform", torch)
            current_platform.import_kernels()
            memory.note("import vllm kernels", torch)
            import vllm.vllm_flash_attn  # noqa: F401

            memory.note("import vllm flash attention", torch)
        except (ImportError, RuntimeError) as problem:
            facts["vllm"] = str(problem)[:200]
    return {**facts, "steps": memory.steps, "module_loading": os.environ.get("CUDA_MODULE_LOADING", "")}


def _memory_graphs(_: bool) -> dict[str, Any]:
    """Memory of instantiated graphs: by nodes of a graph, by graphs, with and without a shared pool."""
    import torch

    memory = _Memory()
    x = torch.zeros(64, device="cuda")
    x.add_(1)
    memory.note("ready", torch)
    kept = []
    for nodes in (1, 10, 100, 450, 1000, 2000):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _node in range(nodes):
                x.add_(1)
        memory.note(f"captured {nodes} nodes", torch)
        graph.replay()
        memory.note(f"replayed {nodes} nodes", torch)
        kept.append(graph)
    pool = torch.cuda.graph_pool_handle()
    for count in (1, 2, 4, 8, 16, 32):
        while len(kept) < 6 + count:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                for _node in range(450):
                    x.add_(1)
            kept.append(graph)
        memory.note(f"{count} graphs of 450 nodes in a shared pool", torch)
    return {"steps": memory.steps}


def _torch_properties(_: bool) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    names = [n for n in dir(properties) if not n.startswith("_")]
    facts = {n: str(getattr(properties, n)) for n in names}
    return {
        "properties": facts,
        "arch_list": torch.cuda.get_arch_list(),
        "capability": torch.cuda.get_device_capability(0),
    }


def _ceilings(dry: bool) -> dict[str, Any]:
    """Copy bandwidth and bf16 product rate on random data, twice: the two numbers that everything is compared with."""
    import torch

    device, size, n = ("cpu", 1 << 12, 64) if dry else ("cuda", 1 << 32, 8192)
    results: dict[str, Any] = {}
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    for again in (1, 2):
        results[f"copy_tb_s_{again}"] = 2 * size / _seconds(lambda: target.copy_(source), dry) / 1e12
        results[f"bf16_tflops_{again}"] = 2 * n**3 / _seconds(lambda: a @ b, dry) / 1e12
    return results


def _seconds(call: Callable[[], Any], dry: bool, repeats: int = 10) -> float:
    import torch

    for _ in range(3):
        call()
    if dry:
        start_ns = time.perf_counter_ns()
        call()
        return max(1, time.perf_counter_ns() - start_ns) / 1e9
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / repeats


def _api_costs(_: bool) -> dict[str, Any]:
    """Nanoseconds of host time per API call, from a small C++ program compiled here (`api_costs.cu`)."""
    source = Path(__file__).with_name("api_costs.cu")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "api_costs"
        subprocess.run(
            ["nvcc", "-O2", "-std=c++17", "-arch=native", "-o", str(program), str(source), "-ldl"],
            check=True,
            capture_output=True,
            timeout=180,
        )
        run = subprocess.run([str(program)], check=True, capture_output=True, text=True, timeout=180)
    return {"calls": [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]}


def _triton_launch(_: bool) -> dict[str, Any]:
    """Host time of a Triton launch through its Python wrapper, and memory taken by a first Triton kernel."""
    import torch

    from revati.calibration.measure.triton_probe import probe

    memory = _Memory()
    x = torch.zeros(1024, device="cuda")
    memory.note("ready", torch)
    probe(x)
    memory.note("first Triton kernel", torch)
    samples = []
    for _sample in range(2000):
        start_ns = time.perf_counter_ns()
        probe(x)
        samples.append(time.perf_counter_ns() - start_ns)
        torch.cuda.synchronize()
    samples.sort()
    return {"launch_ns_p50": samples[1000], "launch_ns_p90": samples[1800], "steps": memory.steps}


# In order of use; all but the last few need only seconds.
STEPS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "ceilings": _ceilings,
    "nvml": _nvml_answers,
    "attributes": _attributes,
    "torch_properties": _torch_properties,
    "memory_context": _memory_context,
    "memory_torch": _memory_torch,
    "memory_graphs": _memory_graphs,
    "api_costs": _api_costs,
    "triton_launch": _triton_launch,
}
_DRY_STEPS = ("ceilings",)


def run_facts(out: Path, budget_s: float, *, dry: bool = False, steps: Sequence[str] = ()) -> dict[str, int]:
    """Runs the steps not yet done, each in a fresh process, into OUT/facts.jsonl. Returns counts: measured, failed,
    left.
    """
    nvml = open_nvml(dry)
    writer = RowWriter(out / "facts.jsonl", session_facts(nvml), dry=dry)
    deadline = time.monotonic() + budget_s
    counts = {"measured": 0, "failed": 0, "left": 0}
    for name in steps or (_DRY_STEPS if dry else STEPS):
        if name in writer.done:
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            counts["left"] += 1
            continue
        command = [
            sys.executable,
            "-m",
            "revati.calibration.measure.facts",
            "--step",
            name,
            *(["--dry-run"] if dry else []),
        ]
        root = str(Path(__file__).resolve().parents[3])
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(20.0, left), env=env)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            if done.returncode or not lines:
                raise RuntimeError(f"exit {done.returncode}: {done.stderr[-250:]}")
            writer.row(name, {"fact": name, **json.loads(lines[-1])})
            counts["measured"] += 1
        except (subprocess.TimeoutExpired, RuntimeError, ValueError) as problem:
            writer.error(name, str(problem))
            counts["failed"] += 1
    writer.close()
    return counts


def _runtime() -> ctypes.CDLL:
    """The CUDA runtime that torch uses: loaded by it, or found beside its packages."""
    import torch

    root = Path(torch.__file__).resolve().parent.parent
    for path in sorted(root.glob("nvidia/**/libcudart.so.1[0-9]*")):
        return ctypes.CDLL(str(path))
    return ctypes.CDLL("libcudart.so.13")


def _check(code: int, call: str) -> None:
    if code:
        raise RuntimeError(f"{call} returned {code}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `scripts/gpu/facts`; `--step` is the inner call that runs one step and prints JSON."""
    parser = argparse.ArgumentParser(prog="facts", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the result files")
    parser.add_argument("--budget", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", action="store_true", help="only what runs without a GPU; rows are marked dry")
    args = parser.parse_args(argv)
    if args.step:
        print(json.dumps(STEPS[args.step](args.dry_run)))
        return 0
    try:
        counts = run_facts(args.out, args.budget, dry=args.dry_run)
    except NoGpuError as problem:
        print(f"facts: {problem}", file=sys.stderr)
        return 2
    print(f"facts: {counts['measured']} steps measured, {counts['failed']} failed, {counts['left']} left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
