"""Host profiles: what ships is complete, and a wrong file is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from revati._errors import UsageError
from revati._hostprofile import COSTS, host_profile_names, load_host_profile
from revati._run import _route
from revati_coordinator.host import extension_ffi
from revati_predictors import load_predictor
from revati_predictors.pricing import Pricer


@pytest.mark.parametrize("name", host_profile_names())
def test_shipped_profiles_are_complete_and_say_where_they_are_from(name: str) -> None:
    profile = load_host_profile(name)
    assert set(profile.costs_ns) == set(COSTS)
    assert profile.costs_ns["step"] > 0 and profile.costs_ns["launch"] > 0
    assert "to be taken" not in profile.taken_on + profile.how and len(profile.taken_on) > 10


def test_costs_are_where_the_library_reads_them() -> None:
    ffi = extension_ffi()
    page = ffi.new("struct rvt_device_page *")
    profile = load_host_profile("default")
    profile.fill(page)
    names = {name.removeprefix("RVT_HOST_").lower(): value for name, value in _enumerators(ffi).items()}
    assert names.pop("costs") == len(COSTS)
    assert set(names) == set(COSTS)
    assert {name: page.host_cost_ns[index] for name, index in names.items()} == dict(profile.costs_ns)


def _enumerators(ffi: object) -> dict[str, int]:
    return {name: value for value, name in ffi.typeof("enum rvt_host_cost").elements.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"launch": -1}, "costs_ns.launch"),
        ({"launch": "fast"}, "costs_ns.launch"),
        ({"lunch": 1}, "did you mean launch"),
    ],
)
def test_wrong_costs_are_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    costs = dict(load_host_profile("default").costs_ns) | change
    path = tmp_path / "host.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "taken_on": "x", "how": "x", "costs_ns": costs}))
    with pytest.raises(UsageError, match=said):
        load_host_profile(str(path))


def test_equal_costs_have_equal_identity(tmp_path: Path) -> None:
    profile = load_host_profile("default")
    path = tmp_path / "host.yaml"
    raw = {"name": "default", "taken_on": "elsewhere", "how": "?", "costs_ns": dict(profile.costs_ns)}
    path.write_text(yaml.safe_dump(raw))
    assert load_host_profile(str(path)).identity == profile.identity
    raw["costs_ns"]["step"] += 1  # type: ignore[index]
    path.write_text(yaml.safe_dump(raw))
    assert load_host_profile(str(path)).identity != profile.identity


def test_routing_reaches_the_facts_of_a_model() -> None:
    pricer = Pricer([load_predictor("h100-sxm", "roofline")])
    _route(pricer, "balanced")
    index = pricer.announce({"experts": 8, "topk": 2})
    assert pricer._models[index].moe_distribution == "balanced"
