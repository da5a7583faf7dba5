"""The command `revati-demo`, which scripts/demo calls in the environment that it makes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from revati._catalogue import parse_gpu_option
from revati._commands.run import add_run_options, check_routing
from revati._demo.results import tables
from revati._demo.scenario import Scenario, play
from revati._demo.view import View
from revati._errors import RevatiError, UsageError
from revati._run import RunOptions, parse_predictor, refuse_nesting
from revati_coordinator.supervisor import supervise

FULL_REQUESTS = 100
QUICK_REQUESTS = 16


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Serve Llama-3.1-8B with unmodified vLLM on a virtual H100, drive it with vllm bench serve.",
    )
    parser.add_argument("--quick", action="store_true", help=f"eager mode and {QUICK_REQUESTS} requests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument(
        "--requests", type=int, metavar="N", help=f"requests of the trace, up to 300 (default {FULL_REQUESTS})"
    )
    parser.add_argument("--rate", metavar="R", help="Poisson arrivals at R requests/s, or inf, instead of the trace's")
    parser.add_argument(
        "--output-tokens", type=int, metavar="N", help="output tokens of every request, instead of the trace's"
    )
    parser.add_argument("--model", default="llama-3.1-8b", metavar="NAME", help="one of 'revati models'")
    parser.add_argument("--eager", action="store_true", help="no torch.compile, no CUDA graphs")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder for the model, the trace and the logs")
    parser.add_argument(
        "--server-arg", action="append", default=[], metavar="ARG", help="one more argument for vllm serve"
    )
    add_run_options(parser)
    return parser


def main() -> int:
    arguments = parser().parse_args()
    try:
        refuse_nesting(os.environ)
        return supervise(lambda: guarded(arguments))
    except RevatiError as error:
        sys.stderr.write(f"revati: {error}\n")
        return error.exit_code


def guarded(arguments: argparse.Namespace) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopped)
    try:
        return demo(arguments)
    except RevatiError as error:
        sys.stderr.write(f"\nrevati: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("\nrevati: interrupted; everything that ran has been stopped\n")
        return 130


def _stopped(number: int, frame: object) -> None:
    """A second signal (the supervisor passes on what the terminal may have sent, too) must not end the tidying up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.stderr.write("\nrevati: terminated; everything that ran has been stopped\n")
    sys.exit(128 + number)


def demo(arguments: argparse.Namespace) -> int:
    import dataclasses

    requests = arguments.requests or (QUICK_REQUESTS if arguments.quick else FULL_REQUESTS)
    if not 1 <= requests <= 300:
        raise UsageError("--requests: the trace has 1 to 300 requests")
    predictor = dataclasses.replace(parse_predictor(arguments.predictor), delay_ms=arguments.predictor_delay_ms)
    options = RunOptions(
        gpus=parse_gpu_option(arguments.gpu),
        policy=arguments.policy,
        order=arguments.order,
        host_profile=arguments.host_profile,
        predictor=predictor,
        seed=arguments.seed,
        oracle=arguments.oracle,
        routing=check_routing(arguments.routing),
        command="demo",
        host_ratio=arguments.host_ratio,
        trace=arguments.trace,
        idle_is_legal=True,
    )
    cache = Path(os.environ.get("REVATI_CACHE") or Path.home() / ".cache" / "revati")
    scenario = Scenario(
        options=options,
        model=arguments.model,
        requests=requests,
        eager=arguments.eager or arguments.quick,
        work=arguments.work or cache / "demo",
        server_arguments=arguments.server_arg,
        client_arguments=["--no-self-timed", "--request-rate", arguments.rate] if arguments.rate else [],
        output_tokens=arguments.output_tokens,
    )
    gpus = options.gpus
    print(f"{arguments.model} on {gpus.count} virtual {gpus.gpu.name}, {requests} requests, policy {options.policy}")
    result = play(scenario, View())
    coverage(result)
    print(tables(result))
    startup = ", ".join(
        f"{name} {seconds:.1f} s" for name, seconds in result["startup_s"].items() if name != "until_ready"
    )
    print(f"wall time    ready after {result['startup_s']['until_ready']:.1f} s; {startup}")
    if result["kv_cache"]:
        print(f"KV cache     {result['kv_cache']}")
    if arguments.json:
        write_json(arguments.json, {**describe(arguments, scenario), **result})
    return 0 if result["failed"] == 0 else 1


def coverage(result: dict[str, Any]) -> None:
    """The warning that a result begins with, and the operators that it speaks of."""
    predicted = result["prediction"]
    if predicted["warning"]:
        print(predicted["warning"])
        for row in predicted["uncovered"]:
            print(f"  {row['us']:10.1f} us  {row['operator']}")
        print()


def describe(arguments: argparse.Namespace, scenario: Scenario) -> dict[str, Any]:
    return {
        "schema": "revati-demo-1",
        "model": scenario.model,
        "gpu": scenario.options.gpus.gpu.key,
        "gpus": scenario.options.gpus.count,
        "policy": scenario.options.policy,
        "order": scenario.options.order,
        "host_profile": scenario.options.host_profile if scenario.options.policy == "modelled" else None,
        "predictor": str(scenario.options.predictor),
        "seed": scenario.options.seed,
        "eager": scenario.eager,
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    print(f"written      {path}")


if __name__ == "__main__":
    sys.exit(main())
