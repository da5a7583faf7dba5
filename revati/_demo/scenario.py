"""Server, load and clock of one demo run."""

from __future__ import annotations

import bisect
import gzip
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any

from revati._demo.phases import LogFollower, Progress
from revati._demo.results import build_result, intervals, request_records
from revati._demo.view import View
from revati._errors import RunError
from revati._program import find_program
from revati._run import Run, RunOptions, end_error
from revati._serverlog import explain
from revati.models import write_model
from revati_predictors.results import statement

__all__ = ["Scenario", "play"]

POLL_S = 0.02
START_LIMIT_S = 1800.0  # real seconds until the server must be ready, on a slow machine with empty caches
SERVER_GRACE_S = 20.0
SETTLE_NS = 600 * 10**9  # the client starts at a multiple of this, more than a start takes in virtual time


@dataclass
class Scenario:
    """What is served and what load it gets."""

    options: RunOptions
    model: str
    requests: int
    eager: bool
    work: Path
    server_arguments: Sequence[str] = ()
    client_arguments: Sequence[str] = ()
    output_tokens: int | None = None
    samples: list[tuple[int, int]] = field(default_factory=list)  # (virtual MONOTONIC ns, real ns)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_trace(path: Path, requests: int, output_tokens: int | None) -> None:
    """The first `requests` requests of the ShareGPT trace, in the form that vllm bench calls timed_trace."""
    packed = resources.files("revati") / "data" / "traces" / "sharegpt.jsonl.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()
    entries = [json.loads(line) for line in lines[:requests]]
    if output_tokens is not None:
        entries = [{**entry, "output_length": output_tokens} for entry in entries]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def play(scenario: Scenario, view: View) -> dict[str, Any]:
    """Runs the scenario and returns the result of build_result with start-up times.

    Raises RunError, with the end of the log, when server or client fail.
    """
    work = scenario.work
    work.mkdir(parents=True, exist_ok=True)
    model = work / scenario.model
    write_model(scenario.model, model)
    trace, result_file = work / "trace.jsonl", work / "bench.json"
    _write_trace(trace, scenario.requests, scenario.output_tokens)
    result_file.unlink(missing_ok=True)
    port = _free_port()
    vllm = find_program("vllm", os.environ)
    server = [
        vllm, "serve", str(model), "--load-format", "dummy", "--served-model-name", scenario.model,
        "--host", "127.0.0.1", "--port", str(port), *(["--enforce-eager"] if scenario.eager else []),
        *scenario.server_arguments,
    ]  # fmt: skip
    client = [
        vllm, "bench", "serve", "--backend", "vllm", "--model", scenario.model, "--tokenizer", str(model),
        "--host", "127.0.0.1", "--port", str(port), "--dataset-name", "timed_trace", "--dataset-path", str(trace),
        "--num-prompts", str(scenario.requests), "--percentile-metrics", "ttft,tpot,itl,e2el",
        "--metric-percentiles", "50,90,99", "--temperature", "0", "--seed", str(scenario.options.seed),
        "--save-result", "--save-detailed", "--result-filename", str(result_file), *scenario.client_arguments,
    ]  # fmt: skip
    with Run(scenario.options) as run:
        return _Play(scenario, run, view).play(server, client, result_file)


class _Play:
    def __init__(self, scenario: Scenario, run: Run, view: View) -> None:
        self._scenario, self._run, self._view = scenario, run, view
        self._progress = Progress()
        self._interrupted = False

    def play(self, server: Sequence[str], client: Sequence[str], result_file: Path) -> dict[str, Any]:
        work = self._scenario.work
        server_log, client_log = work / "server.log", work / "client.log"
        began = time.monotonic()
        server_pid = self._spawn(server, server_log)
        self._run.start()
        self._until_ready(server_pid, server_log, began)
        ready_s = time.monotonic() - began
        self._settle(server_pid, server_log)
        waited_s = self._run.predictor_wait_s()
        client_pid = self._spawn(client, client_log)
        self._run.coordinator.host.resume()
        code, before = self._until_served(client_pid, client_log, server_pid, server_log)
        after, waited_s = self._run.use(), self._run.predictor_wait_s() - waited_s
        if code != 0 or not result_file.exists():
            raise RunError(f"the load generator ended with code {code}:\n{explain(client_log)}")
        self._end_server(server_pid)
        bench = json.loads(result_file.read_text(encoding="utf-8"))
        virtual_s, wall_s = self._serving_times(bench)
        family_ns = {name: ns - before.family_ns[name] for name, ns in after.family_ns.items()}
        total = sum(family_ns.values())
        share = {n: v / total for n, v in sorted(family_ns.items(), key=lambda item: (-item[1], item[0])) if v}
        source_ns = {name: ns - before.source_ns[name] for name, ns in after.source_ns.items()}
        operator_ns = [ns - old for ns, old in zip_longest(after.operator_ns, before.operator_ns, fillvalue=0)]
        predicted = statement(family_ns, source_ns, operator_ns, self._run.predictor_statistics())
        busy = [gpu.busy_ns - old.busy_ns for gpu, old in zip(after.gpus, before.gpus)]
        busy_ratio = min(1.0, sum(busy) / len(busy) / (bench["duration"] * 1e9)) if busy and bench["duration"] else 1.0
        result = build_result(request_records(bench), bench["duration"], virtual_s, wall_s, share)
        return {
            **result,
            "startup_s": {"until_ready": round(ready_s, 3), **{k: round(v, 3) for k, v in self._view.phase_s.items()}},
            "kv_cache": self._progress.kv_cache,
            "predictor_wait_s": round(waited_s, 3),
            "launches": sum(after.launches.values()) - sum(before.launches.values()),
            "gpu_time_source": {name: ns for name, ns in source_ns.items() if ns},
            "prediction": {**predicted, "intervals": intervals(result, predicted["interval"], busy_ratio)},
        }

    def _spawn(self, argv: Sequence[str], log: Path) -> int:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            return self._run.spawn(argv, self._run.environment(argv), None, (nothing, out, out), main=False)
        finally:
            os.close(out)
            os.close(nothing)

    def _check_alive(self, server_pid: int, server_log: Path) -> None:
        if self._run.coordinator.ended:
            end = self._run.wait()
            raise end_error(end) or RunError(f"the run ended: {end.text or end.reason}")
        code = self._run.coordinator.host.exit_code(server_pid)
        if code is not None:
            raise RunError(f"the server ended with code {code}:\n{explain(server_log)}")

    def _state(self) -> str:
        status = self._run.coordinator.status()
        virtual, real = status.virtual_ns / 1e9, status.real_ns / 1e9
        return f"virtual {virtual:8.3f} s, wall {real:6.1f} s, {status.processes} processes, {status.threads} threads"

    def _until_ready(self, server_pid: int, server_log: Path, began: float) -> None:
        follower = LogFollower(server_log)
        while not self._progress.ready:
            self._check_alive(server_pid, server_log)
            self._progress.server(follower.read())
            self._view.show(self._progress.phase, self._state())
            if time.monotonic() - began > START_LIMIT_S:
                raise RunError(f"the server was not ready after {START_LIMIT_S:.0f} s:\n{explain(server_log)}")
            time.sleep(0.1)

    def _settle(self, server_pid: int, server_log: Path) -> None:
        """Stops the clock at a round virtual time: how soon the client is there in real time changes nothing then."""
        host = self._run.coordinator.host
        status = host.status()
        target_ns = status.start_ns + (status.virtual_ns // SETTLE_NS + 1) * SETTLE_NS
        host.run_to(target_ns)
        while host.now_ns() < target_ns:
            self._check_alive(server_pid, server_log)
            time.sleep(POLL_S)

    def _until_served(self, client_pid: int, client_log: Path, server_pid: int, server_log: Path) -> tuple[int, Any]:
        follower = LogFollower(client_log)
        before = self._run.use()
        sending = False
        origin = (0, 0)
        while (code := self._run.coordinator.host.exit_code(client_pid)) is None:
            self._check_alive(server_pid, server_log)
            status = self._run.coordinator.status()
            self._scenario.samples.append((status.now_ns, status.real_ns))
            if not sending:
                before = self._run.use()
                origin = (status.now_ns, status.real_ns)
            sending = self._progress.client(follower.read()) or sending
            if sending:
                virtual, real = (status.now_ns - origin[0]) / 1e9, (status.real_ns - origin[1]) / 1e9
                speed = f"{virtual / real:.2f}x" if real > 0.1 else "-"
                done = f"{self._progress.done}/{self._progress.total} requests"
                self._view.show("serving", f"{done}, virtual {virtual:7.3f} s, wall {real:6.1f} s, speed {speed}")
            else:
                self._view.show("client start", self._state())
            time.sleep(POLL_S)
        self._view.end()
        return code, before

    def _end_server(self, server_pid: int) -> None:
        """Ctrl-C first: vLLM then removes what it has in shared memory. The rest is stopped by the coordinator."""
        try:
            os.kill(server_pid, signal.SIGINT)
        except ProcessLookupError:
            return
        limit = time.monotonic() + SERVER_GRACE_S
        while time.monotonic() < limit and not self._run.coordinator.ended:
            if self._run.coordinator.host.exit_code(server_pid) is not None:
                break
            self._view.show("shutdown", self._state())
            time.sleep(0.05)
        self._view.end()
        self._run.coordinator.stop("the demo is over")

    def _serving_times(self, bench: dict[str, Any]) -> tuple[float, float]:
        """Virtual and real seconds from the first request to the last token, by the client's own virtual times."""
        begins = bench["start_times"]
        if not begins:
            return 0.0, 0.0
        ends = [s + t + sum(i) for s, t, i in zip(begins, bench["ttfts"], bench["itls"])]
        low, high = min(begins), max(ends)
        return high - low, (self._real_at(high) - self._real_at(low, left=True)) / 1e9

    def _real_at(self, virtual_s: float, left: bool = False) -> float:
        """Real time at which the clock reached a virtual time, or left it, between two samples.

        Until the first request goes out the clock stands still, however long the client takes to start.
        """
        wanted = virtual_s * 1e9
        samples = self._scenario.samples
        find = bisect.bisect_right if left else bisect.bisect_left
        index = find(samples, wanted, key=lambda sample: sample[0])
        if index in (0, len(samples)):
            return samples[min(index, len(samples) - 1)][1]
        (now, real), (next_now, next_real) = samples[index - 1], samples[index]
        return real + (wanted - now) / (next_now - now) * (next_real - real)
