"""The case format: strict, with errors that name file, line and the nearest key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from revati import UsageError
from revati.experiments.case import case_from_data, json_schema, load_case, preset_names
from tests.experiments.conftest import fake_data

GOOD = """\
revati_case: 1
name: chat
preset: vllm-chat
model:
  path: some/model
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refused(tmp_path: Path, text: str, *sets: str) -> str:
    """The message that a text is refused with."""
    with pytest.raises(UsageError) as caught:
        load_case(write(tmp_path / "c.yaml", text), sets)
    return str(caught.value)


def test_every_preset_is_a_valid_case_once_it_has_a_model(tmp_path: Path) -> None:
    assert "vllm-chat" in preset_names()
    for name in preset_names():
        case = load_case(write(tmp_path / "c.yaml", f"revati_case: 1\nname: x\npreset: {name}\nmodel: {{path: m}}\n"))
        assert case.workload["classes"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("limits:\n  wall: 3", ["c.yaml:7", "limits.wall", "wall_s"]),
        ("modell: {path: x}", ["c.yaml:6", "modell", "did you mean 'model'"]),
        ("slo: {ttft_ms: 500ms}", ["c.yaml:6", "slo.ttft_ms", "milliseconds", "500ms"]),
        ("slo: {ttft_s: 0.5}", ["ttft_s", "ttft_ms"]),
        (
            "workload: {classes: {chat: {arrival: {kind: poisson, rate_per_s: -1}}}}",
            ["rate_per_s", "more than 0", "-1"],
        ),
        ("workload: {classes: {chat: {arrival: {kind: poison}}}}", ["did you mean 'poisson'"]),
        ("workload: {classes: {chat: {arrival: {kind: closed}}}}", ["concurrency", "missing"]),
        ("seed: 1.5", ["whole number", "1.5"]),
        ("seed: true", ["seed", "True"]),
        ("limits: {wall_s: .inf}", ["finite"]),
        ("device: {count: 2, count: 3}", ["twice"]),
        ("parallelism: {tensor: 2}", ["2 ranks", "device.count"]),
        ("server: {args: {a: b}}", ["list"]),
        ("server: [", ["not valid YAML", "c.yaml:"]),
        ("revati_case: 7", ["twice"]),
        ("a: &x [*x]", ["alias contains itself"]),
    ],
)
def test_a_wrong_case_is_refused_with_its_place(tmp_path: Path, line: str, words: list[str]) -> None:
    message = refused(tmp_path, GOOD + line + "\n")
    for word in words:
        assert word in message


def test_text_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(GOOD.encode() + b"description: caf\xe9\n")
    with pytest.raises(UsageError, match=r"c\.yaml:6: byte 0xe9 is not UTF-8"):
        load_case(path)


def test_an_empty_and_a_missing_file(tmp_path: Path) -> None:
    assert "empty" in refused(tmp_path, "")
    with pytest.raises(UsageError, match="cannot read"):
        load_case(tmp_path / "none.yaml")


def test_set_overrides_and_is_as_strict_as_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", GOOD)
    case = load_case(path, ["server.args=[--max-num-seqs, 8]", "seed=9", "limits.wall_s=5"])
    assert case.data["server"]["args"] == ["--max-num-seqs", "8"]
    assert (case.seed, case.limits["wall_s"]) == (9, 5)
    assert "did you mean 'wall_s'" in refused(tmp_path, GOOD, "limits.wall=5")
    assert "--set nonsense" in refused(tmp_path, GOOD, "nonsense")


def test_a_class_that_never_ends_is_refused(tmp_path: Path) -> None:
    data = fake_data()
    data["workload"]["requests"] = None
    with pytest.raises(UsageError, match="never ends"):
        case_from_data(data, tmp_path)


def test_another_kind_replaces_the_parameters_of_the_preset(tmp_path: Path) -> None:
    text = GOOD + "workload: {classes: {chat: {arrival: {kind: closed, concurrency: 3}}}}\n"
    case = load_case(write(tmp_path / "c.yaml", text))
    assert case.workload["classes"]["chat"]["arrival"] == {"kind": "closed", "concurrency": 3, "think_s": None}


def test_the_json_schema_agrees_with_the_reader(tmp_path: Path) -> None:
    schema = json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(yaml.safe_load(GOOD))
    validator.validate(fake_data())
    validator.validate(case_from_data(fake_data(), tmp_path).data)
    for wrong in ({"limits": {"wall": 3}}, {"slo": {"ttft_ms": "500ms"}}, {"seed": -1}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(yaml.safe_load(GOOD) | wrong)


def test_the_digest_follows_what_decides_the_numbers(tmp_path: Path) -> None:
    digest = case_from_data(fake_data(), tmp_path).digest()
    assert (
        case_from_data(fake_data({"name": "other", "tolerances": {"ttft_ms.*": {"relative": 1}}}), tmp_path).digest()
        == digest
    )
    assert case_from_data(fake_data({"seed": 1}), tmp_path).digest() != digest


def test_the_command_prints_one_sentence_and_no_traceback(tmp_path: Path, revati: Any) -> None:
    done = revati("case", "show", str(write(tmp_path / "c.yaml", GOOD + "sed: 1\n")))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'seed'" in done.stderr
    assert json.loads(revati("case", "schema").stdout)["title"] == "Revati case"


def test_the_documented_table_is_the_format(tmp_path: Path) -> None:
    from revati.experiments.case import CASE_FORM
    from revati.experiments.schema import markdown

    page = (Path(__file__).parents[2] / "docs" / "case-format.md").read_text(encoding="utf-8")
    missing = [row for row in markdown(CASE_FORM) if row not in page]
    assert not missing, "docs/case-format.md is out of date: python -m revati.experiments.case_docs"


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "examples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_examples_are_valid(path: Path) -> None:
    assert load_case(path).workload["classes"]
