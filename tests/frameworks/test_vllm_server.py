"""The real vLLM's HTTP server: streams, several samples, a client that leaves, metrics in virtual time, and no room."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.demo import demo_command, need_vllm
from tests.frameworks.emulated import emulate, need
from tests.frameworks.models import short_llama

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_server(tmp_path: Path) -> None:
    need("vllm", "pynvml", "aiohttp")
    got = emulate("vllm_server.py", str(short_llama(tmp_path)), str(free_port()), predictor="constant:40")
    assert got["plain"] == [8, "length"]
    assert len(set(got["several"])) == 3, "each sample has a text of its own"
    assert got["penalties"] == 8
    assert got["logprobs"] == [3, 3, 3, 3]
    assert got["wrong"] == 400
    assert got["prefix_hits"] > 0.5, "the same prompt again and again"
    assert got["streamed"] == 20
    seen, reported, requests = got["ttft"]
    assert requests == 1
    # The server takes the time after its own share of HTTP; without host time in the clock that is nothing.
    assert reported == pytest.approx(seen, abs=1e-3)
    assert got["left_after"] == 5
    assert got["running_after_leaving"] == 0 and got["kv_after_leaving"] == 0, (
        "the request of the client that left ended"
    )
    assert 0.45 < got["used_share"] < 0.55
    assert got["server_code"] == 0


def test_a_model_that_does_not_fit(tmp_path: Path) -> None:
    """70B parameters of two bytes on one card of 80 GB: the framework's own error, and no traceback of ours."""
    need_vllm()
    done = subprocess.run(
        demo_command(tmp_path, "--quick", "--model", "llama-3.1-70b"), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert "revati: the server ended with code" in done.stderr
    assert "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate" in done.stderr
    assert "has a total capacity of 79.19 GiB" in done.stderr
    assert "Traceback" not in done.stderr
