"""An idle server's clock follows real time; a client in the clock lets it go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Call = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

SERVER = """#!{python}
import ctypes, time
cuda = ctypes.CDLL("libcuda.so.1")
pointer = ctypes.c_void_p()
assert cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(1 << 30)) == 0
assert cuda.cudaMemset(pointer, 0, ctypes.c_size_t(1 << 30)) == 0
print("up", flush=True)
while True:
    time.sleep(10)
"""


def test_idle_server_follows_real_time(start: Start, revati: Call, tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.write_text(SERVER.format(python=sys.executable))
    vllm.chmod(0o755)
    (tmp_path / "config.json").write_text("{}")
    process = start("run", "--predictor", "constant:10", "--", str(vllm), "serve", str(tmp_path), "--port", "0")
    assert process.stdout is not None and process.stdout.readline().strip() == "up"

    def virtual_s() -> float:
        return int(json.loads(revati("status", "--json").stdout)["status"].get("virtual_ns", 0)) / 1e9

    time.sleep(6)
    first, began = virtual_s(), time.monotonic()
    time.sleep(2)
    second, took = virtual_s(), time.monotonic() - began
    assert 0 < second - first < 3 * took
    assert revati("join", "--", "sleep", "100000").returncode == 0  # a client in the clock: no brake
    assert virtual_s() > second + 100000
    revati("stop")
    process.communicate(timeout=120)
