"""The case: everything that decides the numbers of one experiment, read strictly from YAML.

`CASE_FORM` is the single description of the format: validation, `revati case schema` and docs/case-format.md come
from it. Names carry their units; a value is a plain number.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revati import UnknownNameError, UsageError
from revati.experiments.schema import (
    Choice,
    Field,
    Flag,
    Integer,
    Items,
    Mapping,
    Number,
    Object,
    Text,
    Union,
    validate,
)
from revati.experiments.yaml_nodes import Node, merge, read_yaml, set_path
from revati_predictors import ROUTINGS

__all__ = ["CASE_FORM", "CASE_VERSION", "Case", "case_from_data", "json_schema", "load_case", "preset_names"]

CASE_VERSION = 1
PRESETS = Path(__file__).parent / "presets"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"


def _spread(doc: str, *, low: float, whole: bool, required: bool = False) -> Union:
    number = Integer if whole else Number
    return Union(
        doc,
        required=required,
        number_as=("constant", "value"),
        kinds={
            "constant": Object(
                "the same every time; a bare number means this", fields={"value": number(required=True, low=low)}
            ),
            "uniform": Object(
                "every value between the two, both included",
                fields={"low": number(required=True, low=low), "high": number(required=True, low=low)},
            ),
            "normal": Object(
                "normal, cut to the limits",
                fields={
                    "mean": Number(required=True, low=low),
                    "deviation": Number(required=True, low=0),
                    "low": number(low=low, default=int(low)),
                    "high": number("none if not given", low=low),
                },
            ),
            "lognormal": Object(
                "log-normal by its median and sigma, cut to the limits; long tails as real prompts have them",
                fields={
                    "median": Number(required=True, above=0),
                    "sigma": Number(required=True, low=0),
                    "low": number(low=low, default=int(low)),
                    "high": number("none if not given", low=low),
                },
            ),
            "exponential": Object(
                "exponential by its mean", fields={"mean": Number(required=True, above=0), "high": number(low=low)}
            ),
            "choice": Object(
                "one of the values, each as likely unless weighted",
                fields={"values": Items(required=True, item=number(low=low)), "weights": Items(item=Number(low=0))},
            ),
        },
    )


def _rate(doc: str) -> Number:
    return Number(doc, required=True, above=0, high=1e6)


_ARRIVAL = Union(
    "when sessions begin; leave it out only with a trace, which brings its own times",
    kinds={
        "poisson": Object("open loop, exponential gaps", fields={"rate_per_s": _rate("mean arrivals")}),
        "gamma": Object(
            "open loop, gamma gaps",
            fields={
                "rate_per_s": _rate("mean arrivals"),
                "burstiness": Number(
                    "shape of the gaps: 1 is Poisson, below 1 bursty, above 1 even", required=True, above=0
                ),
            },
        ),
        "constant": Object("open loop, equal gaps", fields={"rate_per_s": _rate("arrivals")}),
        "ramp": Object(
            "open loop, Poisson with a rate that moves from one value to another and then stays",
            fields={
                "from_per_s": _rate("rate at the start"),
                "to_per_s": _rate("rate at the end"),
                "over_s": Number("length of the ramp", required=True, above=0),
            },
        ),
        "spikes": Object(
            "open loop, Poisson with a base rate and periodic spikes",
            fields={
                "base_per_s": _rate("rate between spikes"),
                "spike_per_s": _rate("rate in a spike"),
                "every_s": Number("from the start of one spike to the next", required=True, above=0),
                "width_s": Number("length of a spike", required=True, above=0),
            },
        ),
        "at_once": Object("everything at time zero", fields={}),
        "closed": Object(
            "closed loop: so many users, each sends the next session when the last one is finished",
            fields={
                "concurrency": Integer("users", required=True, low=1, high=100_000),
                "think_s": _spread("pause of a user between sessions", low=0, whole=False),
            },
        ),
        "servegen": Object(
            "open loop, a ServeGen client: rate, burstiness and lengths change by time window",
            fields={
                "trace_file": Text("rates by window (CSV)", required=True),
                "dataset_file": Text("length distributions by window (JSON)", required=True),
                "rate_scale": Number("multiplies every rate", default=1.0, above=0),
            },
        ),
    },
)

_SLO_FIELDS: dict[str, Field] = {
    "ttft_ms": Number("time to first token at most", above=0),
    "tpot_ms": Number("time per output token at most", above=0),
    "itl_ms": Number("largest gap between tokens at most", above=0),
    "e2e_ms": Number("whole request at most", above=0),
    "deadline_miss_ratio": Number("share of missed token deadlines at most (needs ttft_ms and tpot_ms)", low=0, high=1),
}

_CLASS = Object(
    fields={
        "arrival": _ARRIVAL,
        "requests": Integer("sessions of this class at most", low=1, high=100_000_000),
        "input_tokens": _spread("prompt length (of the first call of a session)", low=1, whole=True),
        "output_tokens": _spread("answer length; the server is told to produce exactly this many", low=1, whole=True),
        "trace": Object(
            "replays a file: it brings arrivals, lengths and, where it has them, prefix blocks and sessions",
            absent=True,
            fields={
                "file": Text("path, relative to the case file; .gz is read as it is", required=True),
                "format": Choice(
                    "form of the rows",
                    required=True,
                    names=(
                        "csv",
                        "azure",
                        "burstgpt",
                        "mooncake",
                        "llmservingsim",
                        "sharegpt-lengths",
                        "vidur",
                        "agentic",
                    ),
                ),
                "first": Integer("rows used at most", low=1),
                "skip": Integer("rows left out at the start", default=0, low=0),
                "time_scale": Number("multiplies the gaps: 2 is half the load", default=1.0, above=0),
                "max_input_tokens": Integer("longer prompts are cut", low=1),
                "max_output_tokens": Integer("longer answers are cut", low=1),
            },
        ),
        "prefix": Object(
            "prompts of a group begin with the same tokens (a system prompt)",
            absent=True,
            fields={
                "tokens": Integer("length of the shared part, within input_tokens", required=True, low=1),
                "groups": Integer("number of different prefixes", default=1, low=1),
            },
        ),
        "session": Object(
            "several calls that build on each other: chat turns, or an agent's calls with tools between them",
            absent=True,
            fields={
                "calls": _spread("calls in a session", low=1, whole=True, required=True),
                "wait_s": _spread(
                    "user or tool time between an answer and the next call", low=0, whole=False, required=True
                ),
                "follow_up_tokens": _spread(
                    "what a user or tool adds to the history", low=1, whole=True, required=True
                ),
            },
        ),
        "slo": Object("targets of this class instead of the case's", absent=True, fields=_SLO_FIELDS),
    }
)

CASE_FORM = Object(
    fields={
        "revati_case": Integer("version of the format", required=True, low=CASE_VERSION, high=CASE_VERSION),
        "name": Text(
            "letters, digits, dot, dash; names the result and the row in a baseline", required=True, pattern=_NAME
        ),
        "description": Text("one sentence for readers"),
        "preset": Text("a shipped case to start from (`revati case presets`)"),
        "framework": Object(
            "what serves",
            fields={
                "name": Choice("", default="vllm", names=("vllm", "sglang", "command")),
                "version": Text("checked against the installed one, so that a result cannot be mislabelled"),
                "executable": Text("program to start (default: found on PATH)"),
                "python": Text("interpreter of the framework's environment, for its benchmark client and for sglang"),
                "dialect": Choice(
                    "request extensions that the server understands (default: the framework's, 'openai' for a command)",
                    names=("vllm", "sglang", "openai"),
                ),
            },
        ),
        "device": Object(
            "the virtual hardware",
            fields={
                "gpu": Text("name in the device catalogue", default="h100-sxm"),
                "count": Integer("GPUs", default=1, low=1, high=16),
                "topology": Text("preset of the catalogue (default: the GPU's own)"),
            },
        ),
        "model": Object(
            "what is served",
            fields={
                "path": Text("directory with the configuration, or a name that Revati ships"),
                "served_name": Text("name in requests (default: as the server lists it)"),
                "token_ids_below": Integer(
                    "prompts use token ids below this one", default=20_000, low=2_000, high=10_000_000
                ),
            },
        ),
        "parallelism": Object(
            "translated into the framework's own flags",
            fields={
                "tensor": Integer("", default=1, low=1),
                "pipeline": Integer("", default=1, low=1),
                "data": Integer("", default=1, low=1),
                "expert": Flag("expert parallelism for MoE layers", default=False),
            },
        ),
        "server": Object(
            "how it is started",
            fields={
                "args": Items("passed through verbatim", default=[]),
                "env": Mapping("environment variables", default={}, key_pattern=r"[A-Za-z_][A-Za-z0-9_]*"),
                "command": Items("whole command for framework 'command'; {port} and {model} are filled in"),
                "port": Integer("0 picks a free one", default=0, low=0, high=65535),
                "ready_path": Text("answers 200 when the server is ready", default="/health"),
            },
        ),
        "predictor": Object(
            "where durations come from",
            fields={
                "pack": Text("model pack (default: the one for the GPU)"),
                "scale": Mapping(
                    "multiplies durations by operator family: 'attention: 1.05' is 5 % slower attention",
                    default={},
                    item=Number(above=0, high=1000),
                ),
            },
        ),
        "host_time": Object(
            "how the host's own time enters the virtual clock",
            fields={
                "policy": Choice("", default="modelled", names=("free", "modelled", "measured")),
                "profile": Text("policy modelled: name of a shipped host profile, or a file", default="default"),
                "order": Choice(
                    "threads that could run at one virtual instant: one by one, the same in every run (turns), or "
                    "beside each other (fired: faster, but bursts differ from run to run)",
                    default="turns",
                    names=("turns", "fired"),
                ),
            },
        ),
        "oracle": Object(
            "what the virtual GPU answers where real numbers would be needed",
            fields={
                "file": Text("token oracle file: replayed tokens, lengths (default: deterministic valid ids)"),
                "acceptance": Number("speculative decoding: probability that a draft token is accepted", low=0, high=1),
                "routing": Choice("how tokens spread over the experts", default=ROUTINGS[0], names=ROUTINGS),
            },
        ),
        "workload": Object(
            "the load",
            fields={
                "driver": Choice(
                    "who sends it",
                    default="revati",
                    names=("revati", "vllm-bench", "sglang-bench", "aiperf", "guidellm"),
                ),
                "endpoint": Choice("", default="completions", names=("completions", "chat")),
                "requests": Integer("sessions at most, over all classes", low=1, high=100_000_000),
                "duration_s": Number("no new session after this virtual time", above=0),
                "warmup_requests": Integer(
                    "sent one after another before the clock of the result starts", default=0, low=0
                ),
                "scrape_s": Number(
                    "virtual time between two looks at the server's metrics; 0 never looks", default=0.5, low=0
                ),
                "classes": Mapping("name: class of requests", item=_CLASS, default={}, key_pattern=_NAME),
                "args": Items("more arguments for an external driver, verbatim", default=[]),
                "executable": Text("program of an external driver (default: found on PATH)"),
            },
        ),
        "slo": Object("targets for goodput; a class can have its own", fields=_SLO_FIELDS),
        "cost": Object(
            "prices for the cost estimate",
            fields={
                "usd_per_gpu_hour": Number("default: the price table of the product", above=0),
            },
        ),
        "seed": Integer("decides lengths, arrivals, prompts", default=0, low=0, high=2**63 - 1),
        "limits": Object(
            "bounds; when one is reached the result says which",
            fields={
                "virtual_s": Number("virtual time of the load", default=86_400.0, above=0),
                "wall_s": Number("real time of the whole run", default=3600.0, above=0),
                "ready_wall_s": Number(
                    "real time until the server is ready; a first start compiles", default=1800.0, above=0
                ),
                "stall_wall_s": Number("real time without any progress of the load", default=300.0, above=0),
                "request_virtual_s": Number("virtual time of one request", default=3600.0, above=0),
            },
        ),
        "tolerances": Mapping(
            "metric pattern: largest change that `revati check` accepts",
            default={},
            key_pattern=r"[A-Za-z0-9_.*?\[\]/-]+",
            item=Object(
                fields={
                    "relative": Number("share of the baseline value", default=0.0, low=0),
                    "absolute": Number("in the metric's unit", default=0.0, low=0),
                }
            ),
        ),
    }
)


@dataclass(frozen=True)
class Case:
    """A validated case. `data` is plain JSON-able data with every default filled in."""

    data: dict[str, Any]
    base: Path  # directory that relative paths of the case start from

    @property
    def name(self) -> str:
        return str(self.data["name"])

    @property
    def seed(self) -> int:
        return int(self.data["seed"])

    @property
    def workload(self) -> dict[str, Any]:
        section: dict[str, Any] = self.data["workload"]
        return section

    @property
    def limits(self) -> dict[str, float]:
        section: dict[str, float] = self.data["limits"]
        return section

    def path(self, text: str) -> Path:
        """A path of the case file, relative to it."""
        return (self.base / text).resolve()

    @property
    def host_profile(self) -> str:
        """Name of a shipped host profile, or the absolute path of a file."""
        name: str = self.data["host_time"]["profile"]
        return str(self.path(name)) if "/" in name or "." in name else name

    def digest(self) -> str:
        """Hash of everything that decides the numbers (not the name, the tolerances and the prices)."""
        kept = {
            key: value for key, value in self.data.items() if key not in {"name", "description", "tolerances", "cost"}
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_case(path: Path, sets: Sequence[str] = ()) -> Case:
    """Reads, merges (preset, file, `--set`) and validates; UsageError names file, line and the nearest key."""
    root = read_yaml(path)
    if not isinstance(root.value, dict):
        raise root.error("a case file is a section of keys")
    for assignment in sets:
        root = set_path(root, assignment)
    root = _with_preset(root)
    data = validate(root, CASE_FORM)
    _cross_check(data, root)
    return Case(data, path.resolve().parent)


def case_from_data(data: dict[str, Any], base: Path) -> Case:
    """A case from plain data (a result file, a test), validated like a file."""
    root = _node(data, "case")
    assert isinstance(root.value, dict)
    checked = validate(_with_preset(root), CASE_FORM)
    _cross_check(checked, root)
    return Case(checked, base)


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a case file; with a preset the required keys may come from there."""
    schema = CASE_FORM.json()
    schema["required"] = ["revati_case", "name"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Revati case"} | schema


def _node(value: Any, where: str) -> Node:
    if isinstance(value, dict):
        return Node({str(key): _node(item, where) for key, item in value.items()}, where)
    if isinstance(value, list):
        return Node([_node(item, where) for item in value], where)
    return Node(value, where)


def _with_preset(root: Node) -> Node:
    assert isinstance(root.value, dict)
    named = root.value.get("preset")
    if named is None or named.value is None:
        return root
    if named.value not in preset_names():
        raise UsageError(f"{named.where}: {UnknownNameError('preset', str(named.value), preset_names())}")
    base = read_yaml(PRESETS / f"{named.value}.yaml")
    return merge(base, root)


def _where(root: Node, path: str) -> str:
    """Origin of the nearest node that exists on the path."""
    node = root
    for key in path.split("."):
        if not isinstance(node.value, dict) or key not in node.value:
            break
        node = node.value[key]
    return node.where


def _cross_check(data: dict[str, Any], root: Node) -> None:
    """What one key alone cannot show."""

    def fail(path: str, message: str) -> UsageError:
        return UsageError(f"{_where(root, path)}: {message}")

    framework, workload = data["framework"]["name"], data["workload"]
    if framework == "command":
        if not data["server"]["command"]:
            raise fail("server", "framework 'command' needs 'server.command'")
    else:
        if data["server"]["command"]:
            raise fail("server.command", "'server.command' belongs to framework 'command'; use 'server.args'")
        if data["model"]["path"] is None:
            raise fail("model", "'model.path' is missing (a directory or a name that Revati ships)")
    parallel = data["parallelism"]
    ranks = parallel["tensor"] * parallel["pipeline"] * parallel["data"]
    if framework != "command" and ranks > data["device"]["count"]:
        raise fail("parallelism", f"{ranks} ranks need as many GPUs; 'device.count' is {data['device']['count']}")
    if not workload["classes"]:
        raise fail("workload", "'workload.classes' needs at least one class")
    if workload["driver"] != "revati" and len(workload["classes"]) != 1:
        raise fail(
            "workload.driver",
            f"driver '{workload['driver']}' sends one class of requests; use driver 'revati' for a mix",
        )
    for name, section in workload["classes"].items():
        _check_class(name, section, workload, fail)


def _check_class(name: str, section: dict[str, Any], workload: dict[str, Any], fail: Any) -> None:
    path = f"workload.classes.{name}"
    trace, arrival = section["trace"], section["arrival"]
    brings_lengths = trace is not None or (arrival is not None and arrival["kind"] == "servegen")
    for key in ("input_tokens", "output_tokens"):
        if section[key] is None and not brings_lengths:
            raise fail(path, f"'{path}.{key}' is missing")
        if section[key] is not None and brings_lengths:
            raise fail(f"{path}.{key}", f"'{path}.{key}' contradicts the trace, which brings its own lengths")
    if arrival is None and trace is None:
        raise fail(path, f"'{path}.arrival' is missing")
    if arrival is None and trace is not None and trace["format"] == "vidur":
        raise fail(path, f"'{path}.arrival' is missing: a vidur trace has lengths only")
    if arrival is not None and arrival["kind"] == "servegen" and trace is not None:
        raise fail(path, f"'{path}' has a trace and a servegen arrival: one of them")
    endless = (
        trace is None
        and section["requests"] is None
        and workload["requests"] is None
        and workload["duration_s"] is None
    )
    if endless:
        raise fail(path, f"'{path}' never ends: give 'requests' or 'duration_s' (here or in 'workload')")
    if (
        arrival is not None
        and arrival["kind"] == "at_once"
        and section["requests"] is None
        and workload["requests"] is None
        and trace is None
    ):
        raise fail(path, f"'{path}' sends everything at once: give 'requests'")
    if section["session"] is not None and trace is not None:
        raise fail(path, f"'{path}' has a trace and a session: one of them")
    for key in ("input_tokens", "output_tokens"):
        _check_spread(section[key], f"{path}.{key}", fail)
    if section["session"] is not None:
        for key, spread in section["session"].items():
            _check_spread(spread, f"{path}.session.{key}", fail)
    if arrival is not None and arrival["kind"] == "closed":
        _check_spread(arrival["think_s"], f"{path}.arrival.think_s", fail)
    if arrival is not None and arrival["kind"] == "spikes" and arrival["width_s"] > arrival["every_s"]:
        raise fail(f"{path}.arrival", f"'{path}.arrival.width_s' is longer than 'every_s'")
    slo = section["slo"]
    if (
        slo is not None
        and slo["deadline_miss_ratio"] is not None
        and (slo["ttft_ms"] is None or slo["tpot_ms"] is None)
    ):
        raise fail(f"{path}.slo", "'deadline_miss_ratio' needs 'ttft_ms' and 'tpot_ms', which set the deadlines")


def _check_spread(spread: dict[str, Any] | None, path: str, fail: Any) -> None:
    if spread is None:
        return
    low, high = spread.get("low"), spread.get("high")
    if low is not None and high is not None and low > high:
        raise fail(path, f"'{path}.low' is more than 'high'")
    if spread["kind"] == "choice":
        if not spread["values"]:
            raise fail(path, f"'{path}.values' is empty")
        weights = spread["weights"]
        if weights is not None and (len(weights) != len(spread["values"]) or sum(weights) <= 0):
            raise fail(path, f"'{path}.weights' needs one weight a value, not all zero")


def changed_keys(one: dict[str, Any], two: dict[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """(key, value in one, value in two) for every leaf where two cases differ."""
    rows: list[tuple[str, Any, Any]] = []
    for key in sorted(set(one) | set(two)):
        name = f"{path}.{key}" if path else key
        left, right = one.get(key), two.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            rows.extend(changed_keys(left, right, name))
        elif left != right:
            rows.append((name, copy.deepcopy(left), copy.deepcopy(right)))
    return rows
