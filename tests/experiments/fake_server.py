"""A small real server for tests: speaks the OpenAI completions protocol over sockets, with timings of its own making.

One engine loop works through batches as a serving framework does: a step takes a fixed time plus a time per prompt
token; at most `--max-num-seqs` requests run, at most `--max-num-batched-tokens` tokens are in a step; prompts are
cached in blocks of 16 tokens. So the effects that the tests look for have the causes that they have in a framework.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

BLOCK = 16


@dataclass
class Request:
    prompt: list[int]
    wanted: int
    arrived: float
    queue: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    left: int = 0  # prompt tokens still to compute
    cached: int = 0
    produced: int = 0


class Engine:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.blocks: set[int] = set()
        self.wake = asyncio.Event()
        self.queries = self.hits = self.steps = self.step_tokens = self.generated = self.prompt_tokens = 0
        self.queue_s = 0.0
        self.queued = 0

    async def run(self) -> None:
        while True:
            if not self.waiting and not self.running:
                self.wake.clear()
                await self.wake.wait()
            due = time.monotonic()
            while self.waiting or self.running:
                tokens = self._admit()
                due = (
                    max(due, time.monotonic() - 0.02)
                    + self.options.step_ms / 1e3
                    + tokens * self.options.prefill_us / 1e6
                )
                await asyncio.sleep(due - time.monotonic())
                self._finish_step()

    def _admit(self) -> int:
        """Plans a step; returns its prompt tokens."""
        while self.waiting and len(self.running) < self.options.max_num_seqs:
            request = self.waiting.pop(0)
            self.queue_s += time.monotonic() - request.arrived
            self.queued += 1
            self._look_up(request)
            self.running.append(request)
        budget, tokens = self.options.max_num_batched_tokens, 0
        for request in self.running:
            chunk = min(request.left, budget)
            request.left -= chunk
            budget -= chunk
            tokens += chunk
        self.steps += 1
        self.step_tokens += tokens + sum(request.left == 0 for request in self.running)
        return tokens

    def _look_up(self, request: Request) -> None:
        keys = self._keys(request.prompt)
        if not self.options.no_prefix_caching:
            for key in keys:
                if key not in self.blocks or request.cached + BLOCK >= len(request.prompt):
                    break
                request.cached += BLOCK
            self.blocks.update(keys)
        self.queries += len(request.prompt)
        self.hits += request.cached
        request.left = len(request.prompt) - request.cached

    def _keys(self, tokens: list[int]) -> list[int]:
        return [hash(tuple(tokens[:end])) for end in range(BLOCK, len(tokens) + 1, BLOCK)]

    def _finish_step(self) -> None:
        for request in list(self.running):
            if request.left == 0:
                request.produced += 1
                self.generated += 1
                request.queue.put_nowait(request.produced)
                if request.produced == request.wanted:
                    self.running.remove(request)
                    self.blocks.update(self._keys(request.prompt + [5000 + n for n in range(1, request.wanted + 1)]))

    def page(self) -> str:
        values = {
            "vllm:num_requests_running": len(self.running),
            "vllm:num_requests_waiting": len(self.waiting),
            "vllm:kv_cache_usage_perc": min(1.0, sum(len(r.prompt) + r.produced for r in self.running) / 20_000),
            "vllm:num_preemptions_total": 0,
            "vllm:prefix_cache_queries_total": self.queries,
            "vllm:prefix_cache_hits_total": self.hits,
            "vllm:iteration_tokens_total_count": self.steps,
            "vllm:iteration_tokens_total_sum": self.step_tokens,
            "vllm:request_queue_time_seconds_sum": self.queue_s,
            "vllm:request_queue_time_seconds_count": self.queued,
        }
        return "".join(f'{name}{{model_name="fake"}} {value}\n' for name, value in values.items())


def make_app(options: argparse.Namespace) -> web.Application:
    engine = Engine(options)
    counter = [0]

    async def start(app: web.Application) -> None:
        app["engine"] = asyncio.create_task(engine.run())

    async def complete(http: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await http.json()
        counter[0] += 1
        if options.fail_every and counter[0] % options.fail_every == 0:
            return web.json_response({"error": "made to fail"}, status=500)
        chat = http.path.endswith("chat/completions")
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            prompt = "".join(part.get("text", "") for part in prompt)
        ids = prompt if isinstance(prompt, list) else [hash(word) for word in prompt.split()]
        wanted = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        request = Request(list(ids), wanted, time.monotonic())
        engine.waiting.append(request)
        engine.wake.set()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if body.get("stream"):
            await response.prepare(http)
        usage = {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}
        usage["prompt_tokens_details"] = {"cached_tokens": 0}
        for number in range(1, wanted + 1):
            await request.queue.get()
            if options.hang_after and number > options.hang_after:
                await asyncio.sleep(1e6)
            usage |= {"completion_tokens": number, "total_tokens": len(ids) + number}
            usage["prompt_tokens_details"] = {"cached_tokens": request.cached}
            done = "length" if number == wanted else None
            text = f" t{number}"
            choice: dict[str, Any] = {"index": 0, "finish_reason": done}
            if chat:
                choice["delta"] = {"role": "assistant", "content": text}
            else:
                choice["text"] = text
                if body.get("return_token_ids"):
                    choice["token_ids"] = [5000 + number]
            kind = "chat.completion.chunk" if chat else "text_completion"
            event = {"id": f"r{counter[0]}", "object": kind, "created": 1, "model": "fake", "choices": [choice]}
            if (body.get("stream_options") or {}).get("continuous_usage_stats"):
                event["usage"] = usage
            if body.get("stream"):
                await response.write(f"data: {json.dumps(event)}\n\n".encode())
        kind = "chat.completion.chunk" if chat else "text_completion"
        last = {"id": "r", "object": kind, "created": 1, "model": "fake", "choices": [], "usage": usage}
        if not body.get("stream"):
            text = "".join(f" t{number}" for number in range(1, wanted + 1))
            choice = {
                "index": 0,
                "finish_reason": "length",
                "text": text,
                "message": {"role": "assistant", "content": text},
            }
            return web.json_response(last | {"choices": [choice]})
        await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        await response.write_eof()
        return response

    async def models(http: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "fake", "object": "model", "max_model_len": 8192}]})

    async def health(http: web.Request) -> web.Response:
        return web.Response(status=503 if options.never_ready else 200)

    async def metrics(http: web.Request) -> web.Response:
        return web.Response(text=engine.page())

    app = web.Application(client_max_size=1 << 28)
    app.on_startup.append(start)
    app.router.add_post("/v1/completions", complete)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", metrics)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=4.0)
    parser.add_argument("--prefill-us", type=float, default=50.0)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192)
    parser.add_argument("--no-prefix-caching", action="store_true")
    parser.add_argument("--fail-every", type=int, default=0)
    parser.add_argument("--hang-after", type=int, default=0)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--exit-at-once", action="store_true")
    options = parser.parse_args()
    if options.exit_at_once:
        print("fake server: no such model", file=sys.stderr)
        sys.exit(3)
    web.run_app(make_app(options), host="127.0.0.1", port=options.port, print=None, handle_signals=True)


if __name__ == "__main__":
    main()
