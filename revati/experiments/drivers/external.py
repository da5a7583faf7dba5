"""Benchmark clients of others, run as they are inside the clock, and their own reports read back.

Each driver has a command made from the case (what it cannot express is an error that says so) and a reader that turns
its per-request export into our records, so that all metrics have one definition whoever sent the load.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revati import HostError, RunError, UsageError
from revati.experiments import launch
from revati.experiments.case import Case
from revati.experiments.drivers.records import RequestRecord
from revati.experiments.session import ProcessPlan

__all__ = ["DriverReport", "client_command", "read_report"]


@dataclass(frozen=True)
class DriverReport:
    """What a driver left: its own summary, our records, and the duration where the records lack start times."""

    summary: dict[str, Any]
    requests_file: Path
    duration_ns: int | None = None


def client_command(case: Case, out: Path, url: str, model: str) -> ProcessPlan:
    """The driver's command for the case."""
    driver = case.workload["driver"]
    make = {"vllm-bench": _vllm_bench, "sglang-bench": _sglang_bench, "aiperf": _aiperf, "guidellm": _guidellm}[driver]
    load = _Load(case)
    for name in ("aiperf", "driver.json"):
        target = out / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    command = make(load, out, url, model) + list(case.workload["args"])
    # Nothing shall be fetched. AIPerf takes a local tokenizer for a hub name when it is told so, and needs no telling.
    quiet = {"NO_COLOR": "1", "HF_HUB_OFFLINE": None if driver == "aiperf" else "1"}
    return ProcessPlan(command, str(out / "client.log"), quiet, str(out))


class _Load:
    """The one class of requests that an external driver sends."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.driver = case.workload["driver"]
        ((self.name, self.section),) = case.workload["classes"].items()
        self.arrival: dict[str, Any] = self.section["arrival"] or {}
        counts = [item for item in (self.section["requests"], case.workload["requests"]) if item is not None]
        self.requests: int | None = min(counts, default=None)
        self.duration_s: float | None = case.workload["duration_s"]
        if self.section["session"] is not None:
            raise self.cannot("sessions of several calls")
        if self.section["trace"] is not None and self.driver != "aiperf":
            raise self.cannot("traces")

    def cannot(self, what: str) -> UsageError:
        return UsageError(f"case '{self.case.name}': driver '{self.driver}' cannot express {what}; use driver 'revati'")

    def constant(self, key: str) -> int:
        spread = self.section[key]
        if spread is None or spread["kind"] != "constant":
            raise self.cannot(f"{key} that vary like this")
        return int(spread["value"])

    def count(self) -> int:
        if self.requests is None:
            raise UsageError(f"case '{self.case.name}': driver '{self.driver}' needs 'requests'")
        return self.requests

    def tokenizer(self) -> str:
        path = launch.model_path(self.case)
        if not path:
            raise UsageError(f"case '{self.case.name}': driver '{self.driver}' needs 'model.path' for its tokenizer")
        return path


def _program(load: _Load, name: str) -> str:
    named = load.case.workload["executable"]
    found = shutil.which(named or name)
    if found is None:
        raise HostError(f"'{named or name}' is not on PATH; install it (pip install {name}) or set workload.executable")
    return found


def _bench_rates(load: _Load) -> list[str]:
    """Arrival flags that the frameworks' own clients share."""
    arrival = load.arrival
    kind = arrival["kind"]
    if kind == "poisson":
        return ["--request-rate", f"{arrival['rate_per_s']:g}"]
    if kind == "at_once":
        return ["--request-rate", "inf"]
    if kind == "closed" and arrival["think_s"] is None:
        return ["--request-rate", "inf", "--max-concurrency", str(arrival["concurrency"])]
    raise load.cannot(f"arrival kind '{kind}'")


def _vllm_bench(load: _Load, out: Path, url: str, model: str) -> list[str]:
    endpoint = "/v1/chat/completions" if load.case.workload["endpoint"] == "chat" else "/v1/completions"
    backend = "openai-chat" if load.case.workload["endpoint"] == "chat" else "openai"
    program = load.case.workload["executable"] or launch.executable(load.case, "vllm")
    command = [program, "bench", "serve", "--backend", backend, "--base-url", url, "--endpoint", endpoint]
    command += ["--model", model, "--tokenizer", load.tokenizer(), "--dataset-name", "random"]
    prefix = load.section["prefix"]
    shared = prefix["tokens"] if prefix is not None else 0
    if prefix is not None and prefix["groups"] != 1:
        raise load.cannot("several prefix groups")
    command += [
        "--random-input-len",
        str(max(1, load.constant("input_tokens") - shared)),
        "--random-prefix-len",
        str(shared),
    ]
    command += ["--random-output-len", str(load.constant("output_tokens")), "--num-prompts", str(load.count())]
    if load.arrival["kind"] == "gamma":
        command += [
            "--request-rate",
            f"{load.arrival['rate_per_s']:g}",
            "--burstiness",
            f"{load.arrival['burstiness']:g}",
        ]
    elif load.arrival["kind"] == "ramp":
        raise load.cannot("a ramp of given length")
    else:
        command += _bench_rates(load)
    command += [
        "--seed",
        str(load.case.seed % 2**31),
        "--ignore-eos",
        "--disable-tqdm",
        "--save-result",
        "--save-detailed",
    ]
    command += ["--result-dir", str(out), "--result-filename", "driver.json"]
    return [*command, "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99"]


def _sglang_bench(load: _Load, out: Path, url: str, model: str) -> list[str]:
    python = load.case.data["framework"]["python"] or sys.executable
    command = [python, "-m", "sglang.bench_serving", "--backend", "sglang-oai", "--base-url", url, "--model", model]
    command += ["--tokenizer", load.tokenizer(), "--dataset-name", "random-ids", "--random-range-ratio", "1.0"]
    command += ["--random-input-len", str(load.constant("input_tokens"))]
    command += ["--random-output-len", str(load.constant("output_tokens")), "--num-prompts", str(load.count())]
    command += [*_bench_rates(load), "--seed", str(load.case.seed % 2**31), "--disable-tqdm", "--output-details"]
    return [*command, "--output-file", str(out / "driver.json")]


def _aiperf(load: _Load, out: Path, url: str, model: str) -> list[str]:
    endpoint = "chat" if load.case.workload["endpoint"] == "chat" else "completions"
    command = [_program(load, "aiperf"), "profile", "--model", model, "--tokenizer", load.tokenizer(), "--url", url]
    command += [
        "--endpoint-type",
        endpoint,
        "--streaming",
        "--ui",
        "none",
        "--random-seed",
        str(load.case.seed % 2**31),
    ]
    command += ["--output-artifact-dir", str(out / "aiperf"), "--no-gpu-telemetry", "--no-server-metrics"]
    command += ["--use-server-token-count", "--extra-inputs", "ignore_eos:true"]
    if load.requests is not None:
        command += ["--request-count", str(load.requests)]
    if load.duration_s is not None:
        command += ["--benchmark-duration", f"{load.duration_s:g}"]
    trace = load.section["trace"]
    if trace is not None:
        if trace["format"] != "mooncake" or load.arrival:
            raise load.cannot("traces other than mooncake with their own times")
        return [
            *command,
            "--input-file",
            str(load.case.path(trace["file"])),
            "--custom-dataset-type",
            "mooncake_trace",
            "--fixed-schedule",
        ]
    command += ["--isl", str(load.constant("input_tokens")), "--isl-stddev", "0"]
    command += ["--osl", str(load.constant("output_tokens")), "--osl-stddev", "0"]
    command += ["--extra-inputs", f"min_tokens:{load.constant('output_tokens')}"]
    prefix = load.section["prefix"]
    if prefix is not None:
        command += ["--num-prefix-prompts", str(prefix["groups"]), "--prefix-prompt-length", str(prefix["tokens"])]
    arrival = load.arrival
    if arrival["kind"] == "closed" and arrival["think_s"] is None:
        return [*command, "--concurrency", str(arrival["concurrency"])]
    if arrival["kind"] not in ("poisson", "constant", "gamma"):
        raise load.cannot(f"arrival kind '{arrival['kind']}'")
    command += ["--request-rate", f"{arrival['rate_per_s']:g}", "--arrival-pattern", arrival["kind"]]
    if arrival["kind"] == "gamma":
        command += ["--arrival-smoothness", f"{arrival['burstiness']:g}"]
    return command


def _guidellm(load: _Load, out: Path, url: str, model: str) -> list[str]:
    arrival = load.arrival
    if arrival["kind"] == "closed" and arrival["think_s"] is None:
        profile = f"kind=concurrent,streams={arrival['concurrency']}"
    elif arrival["kind"] in ("poisson", "constant"):
        profile = f"kind={arrival['kind']},rate={arrival['rate_per_s']:g}"
    else:
        raise load.cannot(f"arrival kind '{arrival['kind']}'")
    if load.section["prefix"] is not None:
        raise load.cannot("shared prefixes")
    path = "/v1/chat/completions" if load.case.workload["endpoint"] == "chat" else "/v1/completions"
    command = [_program(load, "guidellm"), "run"]
    command += ["--backend", f"kind=openai_http,target={url},model={model},request_format={path}", "--profile", profile]
    if load.requests is not None:
        command += ["--constraint", f"kind=max_requests,count={load.requests}"]
    if load.duration_s is not None:
        command += ["--constraint", f"kind=max_duration,seconds={load.duration_s:g}"]
    command += ["--tokenizer", f"kind=hf_auto,model={load.tokenizer()}"]
    lengths = f"prompt_tokens={load.constant('input_tokens')},output_tokens={load.constant('output_tokens')}"
    command += ["--data", f"kind=synthetic_text,{lengths}", "--seed", f"kind=static,value={load.case.seed % 2**31}"]
    return [*command, "--output", f"kind=json,path={out / 'driver.json'}", "--disable-console"]


def read_report(case: Case, out: Path) -> DriverReport:
    """Reads what the driver left in `out` and writes our records beside it; RunError if it left nothing usable."""
    driver = case.workload["driver"]
    read = {"vllm-bench": _read_bench, "sglang-bench": _read_bench, "aiperf": _read_aiperf, "guidellm": _read_guidellm}
    target = out / "requests.jsonl"
    try:
        summary, records, duration_ns = read[driver](case, out)
        rows = sorted(records, key=lambda record: record.sent_ns)
    except FileNotFoundError:
        target.write_text("", encoding="utf-8")
        return DriverReport({}, target)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"the report of {driver} has another form than expected ({error!r}); is its version supported?"
        ) from error
    for index, record in enumerate(rows):
        record.session = index
        record.id = f"{record.klass}/{index}/0"
    target.write_text("".join(record.line() for record in rows), encoding="utf-8")
    return DriverReport({"driver": driver} | summary, target, duration_ns)


_Read = tuple[dict[str, Any], Iterator[RequestRecord], "int | None"]


def _record(case: Case, sent_ns: int, gaps_ns: list[int], tokens: tuple[int, int], error: str | None) -> RequestRecord:
    """A record from a start, the gaps between pieces (the first is the TTFT) and (prompt, answer) token counts."""
    ((name, _),) = case.workload["classes"].items()
    prompt, answer = tokens
    times, now_ns = [], sent_ns
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        times.append(now_ns)
    counts = [1] * len(times)
    if times and answer > len(times):
        counts[-1] += answer - len(times)  # pieces that carried several tokens cannot be told apart
    return RequestRecord(
        id="",
        klass=name,
        session=0,
        call=0,
        planned_ns=sent_ns,
        sent_ns=sent_ns,
        input_tokens=prompt,
        output_tokens_asked=answer,
        token_ns=times,
        token_counts=counts,
        end_ns=now_ns,
        prompt_tokens=prompt,
        output_tokens=answer if error is None else 0,
        error=error,
        coarse=bool(times) and answer > len(times) + 1,
    )


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _read_bench(case: Case, out: Path) -> _Read:
    """vLLM's and SGLang's own clients: one JSON object with lists by request."""
    text = (out / "driver.json").read_text(encoding="utf-8")
    data = json.loads(text.strip().split("\n")[-1] if case.workload["driver"] == "sglang-bench" else text)
    starts = data.get("start_times") or []
    first_s = min((start for start in starts if start), default=0.0)

    def rows() -> Iterator[RequestRecord]:
        for index, (prompt, answer, ttft_s, itls) in enumerate(
            zip(data["input_lens"], data["output_lens"], data["ttfts"], data["itls"])
        ):
            sent_ns = _ns(starts[index] - first_s) if starts else 0
            error = data["errors"][index] or None
            gaps = [_ns(ttft_s), *map(_ns, itls)] if error is None else []
            yield _record(case, sent_ns, gaps, (prompt, answer), error)

    summary = {key: value for key, value in data.items() if isinstance(value, (int, float, str))}
    return summary, rows(), _ns(data["duration"])


def _read_aiperf(case: Case, out: Path) -> _Read:
    data = json.loads((out / "aiperf" / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    lines = (out / "aiperf" / "profile_export.jsonl").read_text(encoding="utf-8").splitlines()
    exported = [json.loads(line) for line in lines if line]
    measured = [row for row in exported if row["metadata"]["benchmark_phase"] == "profiling"]
    first_ns = min((row["metadata"]["request_start_ns"] for row in measured), default=0)

    def rows() -> Iterator[RequestRecord]:
        for row in measured:
            metrics = {name: item["value"] for name, item in row["metrics"].items()}
            error = row.get("error")
            message = None if error is None else str(error.get("message", error))
            gaps = []
            if message is None:
                gaps_ms = [metrics["time_to_first_token"], *metrics.get("inter_chunk_latency", [])]
                gaps = [round(gap * 1e6) for gap in gaps_ms]
            tokens = (
                int(metrics.get("usage_prompt_tokens", metrics.get("input_sequence_length", 0))),
                int(metrics.get("output_sequence_length", 0)),
            )
            yield _record(case, row["metadata"]["request_start_ns"] - first_ns, gaps, tokens, message)

    summary = {
        name: {key: number for key, number in item.items() if key in ("unit", "avg", "p50", "p90", "p99", "max")}
        for name, item in data.items()
        if isinstance(item, dict) and "unit" in item
    }
    return summary | {"aiperf_version": data.get("aiperf_version")}, rows(), None


def _read_guidellm(case: Case, out: Path) -> _Read:
    data = json.loads((out / "driver.json").read_text(encoding="utf-8"))
    benchmark = data["benchmarks"][0]
    groups = benchmark["requests"]
    everything = [*groups["successful"], *groups["errored"], *groups["incomplete"]]
    starts = [row["info"]["timings"]["request_start"] for row in everything]
    first_s = min((start for start in starts if start is not None), default=0.0)

    def rows() -> Iterator[RequestRecord]:
        for row in everything:
            times = row["info"]["timings"]
            sent_s = times["request_start"] if times["request_start"] is not None else first_s
            error = row["info"].get("error")
            if row["info"].get("status") != "completed":
                error = error or str(row["info"].get("status"))
            gaps = []
            if error is None:
                first, last = times["first_token_iteration"], times["last_token_iteration"]
                gaps = [_ns(first - sent_s)] + ([_ns(last - first)] if (row["output_tokens"] or 0) > 1 else [])
            tokens = (int(row.get("prompt_tokens") or 0), int(row.get("output_tokens") or 0))
            yield _record(case, _ns(sent_s - first_s), gaps, tokens, error)

    summary = {}
    for name, item in benchmark["metrics"].items():
        done = item.get("successful") if isinstance(item, dict) else None
        if isinstance(done, dict) and "mean" in done:
            percentiles = done.get("percentiles") or {}
            summary[name] = {"mean": done["mean"], "median": done.get("median")} | {
                key: percentiles.get(key) for key in ("p90", "p99")
            }
    return summary, rows(), None
