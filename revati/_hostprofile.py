"""Host profiles: what the target's CPU spends on each kind of work, for the host-time policy `modelled`.

A profile is a YAML file with `name`, `taken_on` (the machine), `how`, and `costs_ns`: nanoseconds by kind of work,
the kinds being the lower-case names of `enum rvt_host_cost` (csrc/include/rvt_device_page.h). The product ships one in
`revati/data/hosts`; `revati calibrate host` and `scripts/host-profile` make others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from revati._errors import UnknownNameError, UsageError

__all__ = ["COSTS", "DEFAULT", "HostProfile", "host_profile_names", "load_host_profile"]

DEFAULT = "default"
# In the order of enum rvt_host_cost.
COSTS = (
    "launch", "graph_launch", "copy", "event", "malloc", "step", "sequence", "request", "outputs", "output", "input",
)  # fmt: skip
_KEYS = {"name", "taken_on", "how", "costs_ns"}
_COST_NS_MAX = 10**10


@dataclass(frozen=True)
class HostProfile:
    """`costs_ns` has one entry for each of COSTS."""

    name: str
    taken_on: str
    how: str
    costs_ns: Mapping[str, int]

    @property
    def identity(self) -> str:
        """Name and a digest of the costs: equal when two runs charged the same."""
        digest = hashlib.sha256(json.dumps(dict(self.costs_ns), sort_keys=True).encode()).hexdigest()
        return f"{self.name}@{digest[:12]}"

    def fill(self, page: Any) -> None:
        """Writes the costs into `page`, a cffi `struct rvt_device_page *`."""
        for index, kind in enumerate(COSTS):
            page.host_cost_ns[index] = self.costs_ns[kind]


def host_profile_names() -> list[str]:
    """The profiles that are shipped."""
    folder = resources.files("revati") / "data" / "hosts"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_host_profile(name: str) -> HostProfile:
    """A shipped profile by name, or a file by path (anything with a dot or a slash). Raises UsageError."""
    if "/" in name or "." in name:
        path = Path(name)
        try:
            return parse_host_profile(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise UsageError(f"host profile {path}: {error.strerror}") from None
    if name not in host_profile_names():
        raise UnknownNameError("host profile", name, host_profile_names())
    resource = resources.files("revati") / "data" / "hosts" / f"{name}.yaml"
    return parse_host_profile(resource.read_text(encoding="utf-8"), name)


def parse_host_profile(text: str, where: str) -> HostProfile:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("costs_ns"), dict):
        raise UsageError(f"{where}: a host profile has the keys {', '.join(sorted(_KEYS))}; costs_ns maps work to ns")
    for key in set(raw) - _KEYS:
        raise UsageError(f"{where}: unknown key '{key}'; known are {', '.join(sorted(_KEYS))}")
    costs = raw["costs_ns"]
    for kind in costs:
        if kind not in COSTS:
            raise UnknownNameError(f"kind of work in {where}", str(kind), COSTS)
    for kind in COSTS:
        value = costs.get(kind)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _COST_NS_MAX:
            raise UsageError(f"{where}: costs_ns.{kind}: expected nanoseconds from 0 to {_COST_NS_MAX}, not {value!r}")
    return HostProfile(
        str(raw.get("name", where)), str(raw.get("taken_on", "?")), str(raw.get("how", "?")), dict(costs)
    )
