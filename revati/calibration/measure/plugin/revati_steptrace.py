"""A vLLM general plugin that writes down every engine step: which requests ran, with how many tokens, when, and how
long the GPU took.

It only observes, and it works the same on a real GPU and under emulation, so both sides of a comparison carry the
same trace. It is active when REVATI_STEPTRACE names a folder. Files, one per process:

    engine-PID.jsonl   {"i", "t": [schedule start, end, update start, end], "tokens", "prefill": [[q, kv], ...],
                        "decode": [kv, ...], "waiting", "running", "free_blocks"}
    worker-PID.jsonl   {"i", "tokens", "host_ns": [execute, sample], "gpu_us"}

`t` is CLOCK_MONOTONIC in ns, kv counts the tokens of this step, gpu_us comes from events around it on its stream.

This file runs inside vLLM's processes: it imports nothing of Revati.
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from typing import Any

_clock = time.monotonic_ns


class _Engine:
    """Writes a line per scheduled step, when its output has been taken in."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.file: Any = None
        self.steps = 0
        self.open: dict[int, tuple[Any, ...]] = {}

    def scheduled(self, scheduler: Any, output: Any, start_ns: int, end_ns: int) -> None:
        if output.total_num_scheduled_tokens > 0:
            self.open[id(output)] = (
                self.steps,
                output,
                start_ns,
                end_ns,
                len(scheduler.waiting),
                len(scheduler.running),
                _free_blocks(scheduler),
            )
            self.steps += 1

    def updated(self, output: Any, start_ns: int, end_ns: int) -> None:
        found = self.open.pop(id(output), None)
        if found is None:
            return
        number, _, first_ns, second_ns, waiting, running, free = found
        prefill, decode = [], []
        tokens = output.num_scheduled_tokens
        for request in output.scheduled_new_reqs:
            q = tokens.get(request.req_id, 0)
            prefill.append([q, q + request.num_computed_tokens])
        cached = output.scheduled_cached_reqs
        for name, computed in zip(cached.req_ids, cached.num_computed_tokens):
            q = tokens.get(name, 0)
            if q == 1:
                decode.append(1 + computed)
            else:
                prefill.append([q, q + computed])
        if self.file is None:
            self.file = open(os.path.join(self.folder, f"engine-{os.getpid()}.jsonl"), "a", encoding="ascii")  # noqa: SIM115
        self.file.write(
            f'{{"i":{number},"t":[{first_ns},{second_ns},{start_ns},{end_ns}],"tokens":{output.total_num_scheduled_tokens},'
            f'"prefill":{prefill},"decode":{decode},"waiting":{waiting},"running":{running},"free_blocks":{free}}}\n'
        )
        if not self.open:  # nothing in flight: a good moment
            self.file.flush()


def _free_blocks(scheduler: Any) -> int:
    try:
        return int(scheduler.kv_cache_manager.block_pool.get_num_free_blocks())
    except AttributeError:
        return -1


class _Worker:
    """Writes a line per executed step once its end event has passed; never waits for the GPU."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.file: Any = None
        self.steps = 0
        self.pending: deque[list[Any]] = deque()

    def begin(self, output: Any) -> list[Any] | None:
        if output.total_num_scheduled_tokens <= 0:
            return None
        import torch

        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        entry = [self.steps, output.total_num_scheduled_tokens, start, end, 0, 0, False]
        self.steps += 1
        self.pending.append(entry)
        return entry

    def finish(self, entry: list[Any]) -> None:
        entry[3].record()
        entry[6] = True
        while self.pending and self.pending[0][6] and (self.pending[0] is not entry) and self.pending[0][3].query():
            self._write(self.pending.popleft())

    def _write(self, entry: list[Any]) -> None:
        if self.file is None:
            path = os.path.join(self.folder, f"worker-{os.getpid()}.jsonl")
            self.file = open(path, "a", buffering=1 << 16, encoding="ascii")  # noqa: SIM115
        number, tokens, start, end, execute, sample, _ = entry
        self.file.write(
            f'{{"i":{number},"tokens":{tokens},"host_ns":[{execute},{sample}],'
            f'"gpu_us":{start.elapsed_time(end) * 1000:.2f}}}\n'
        )
        if len(self.pending) < 2:
            self.file.flush()


def _trace_scheduler(folder: str) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    engine = _Engine(folder)
    schedule, update = Scheduler.schedule, Scheduler.update_from_output

    @functools.wraps(schedule)
    def traced_schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        start_ns = _clock()
        output = schedule(self, *args, **kwargs)
        engine.scheduled(self, output, start_ns, _clock())
        return output

    @functools.wraps(update)
    def traced_update(self: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
        start_ns = _clock()
        result = update(self, output, *args, **kwargs)
        engine.updated(output, start_ns, _clock())
        return result

    Scheduler.schedule, Scheduler.update_from_output = traced_schedule, traced_update


def _trace_worker(folder: str) -> None:
    from vllm.v1.worker.gpu_worker import Worker

    worker = _Worker(folder)
    execute, sample = Worker.execute_model, Worker.sample_tokens
    latest: list[Any] = [None]

    @functools.wraps(execute)
    def traced_execute(self: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
        entry = worker.begin(output)
        start_ns = _clock()
        result = execute(self, output, *args, **kwargs)
        if entry is not None:
            entry[4] = _clock() - start_ns
            latest[0] = entry
            if result is not None:  # sampled already: no second call follows
                worker.finish(entry)
                latest[0] = None
        return result

    @functools.wraps(sample)
    def traced_sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        start_ns = _clock()
        result = sample(self, *args, **kwargs)
        entry, latest[0] = latest[0], None
        if entry is not None:
            entry[5] = _clock() - start_ns
            worker.finish(entry)
        return result

    Worker.execute_model, Worker.sample_tokens = traced_execute, traced_sample


_registered = False


def register() -> None:
    """Entry point; called in every vLLM process, possibly more than once."""
    global _registered
    folder = os.environ.get("REVATI_STEPTRACE")
    if not folder or _registered:
        return
    _registered = True
    os.makedirs(folder, exist_ok=True)
    _trace_scheduler(folder)
    try:
        _trace_worker(folder)
    except ImportError:  # a build without GPU workers
        return
