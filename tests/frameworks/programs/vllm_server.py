"""vLLM's HTTP server and a client beside it on one clock. Argument: model directory. Prints one JSON line."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pynvml

MODEL, PORT = sys.argv[1], sys.argv[2]
URL = f"http://127.0.0.1:{PORT}"
COMMAND = [
    str(Path(sys.executable).parent / "vllm"), "serve", MODEL, "--load-format", "dummy", "--enforce-eager",
    "--port", PORT, "--host", "127.0.0.1", "--max-model-len", "2048", "--served-model-name", "m",
    "--gpu-memory-utilization", "0.5",
]  # fmt: skip
PROMPT = [1000 + i * 31 for i in range(100)]
result: dict[str, Any] = {}


async def metric(http: aiohttp.ClientSession, name: str) -> float:
    """Sum of a metric's samples on the Prometheus page."""
    async with http.get(f"{URL}/metrics") as response:
        text = await response.text()
    values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    if not values:
        raise SystemExit(f"no {name} in the metrics")
    return sum(map(float, values))


async def completion(http: aiohttp.ClientSession, **fields: Any) -> dict[str, Any]:
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 8, "ignore_eos": True, **fields}
    async with http.post(f"{URL}/v1/completions", json=body) as response:
        answer: dict[str, Any] = await response.json()
        return answer | {"status": response.status}


async def stream(http: aiohttp.ClientSession, tokens: int, leave_after: int | None = None) -> list[float]:
    """Virtual times of the chunks, from the request on; leaves the connection after so many of them."""
    body = {"model": "m", "prompt": PROMPT[::-1], "max_tokens": tokens, "ignore_eos": True, "stream": True}
    begin, times = time.monotonic(), []
    async with http.post(f"{URL}/v1/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                times.append(time.monotonic() - begin)
            if leave_after is not None and len(times) >= leave_after:
                response.close()
                break
    return times


async def requests() -> None:
    async with aiohttp.ClientSession() as http:
        plain = await completion(http)
        result["plain"] = [plain["usage"]["completion_tokens"], plain["choices"][0]["finish_reason"]]
        several = await completion(http, n=3, temperature=0.9, seed=5)
        result["several"] = [choice["text"] for choice in several["choices"]]
        penalties = await completion(http, presence_penalty=0.5, frequency_penalty=0.2, repetition_penalty=1.1,
                                     min_p=0.1, top_k=20, top_p=0.9, temperature=0.7, min_tokens=4)  # fmt: skip
        result["penalties"] = penalties["usage"]["completion_tokens"]
        logprobs = await completion(http, logprobs=3, max_tokens=4)
        result["logprobs"] = [len(top) for top in logprobs["choices"][0]["logprobs"]["top_logprobs"]]
        wrong = await completion(http, max_tokens=-1)
        result["wrong"] = wrong["status"]
        cached = [await metric(http, f"vllm:prefix_cache_{what}_total") for what in ("queries", "hits")]
        result["prefix_hits"] = cached[1] / cached[0]

        before = [await metric(http, f"vllm:time_to_first_token_seconds_{what}") for what in ("sum", "count")]
        times = await stream(http, 20)
        after = [await metric(http, f"vllm:time_to_first_token_seconds_{what}") for what in ("sum", "count")]
        result["streamed"] = len(times)
        result["ttft"] = [times[0], after[0] - before[0], after[1] - before[1]]

        left = await stream(http, 1500, leave_after=5)
        result["left_after"] = len(left)
        await asyncio.sleep(0.5)
        result["running_after_leaving"] = await metric(http, "vllm:num_requests_running")
        result["kv_after_leaving"] = await metric(http, "vllm:kv_cache_usage_perc")


def used_bytes() -> int:
    pynvml.nvmlInit()
    used: int = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used
    return used


def ready() -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(f"{URL}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


server = subprocess.Popen(COMMAND, stdout=sys.stderr)
try:
    while not ready():
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        time.sleep(1)
    result["used_share"] = used_bytes() / (80 << 30)
    asyncio.run(requests())
finally:
    server.send_signal(signal.SIGINT)
    result["server_code"] = server.wait(60)
print(json.dumps(result))
