"""The case format as data: one table that validates, prints the JSON schema and writes the documentation."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from typing import Any

from revati.experiments.yaml_nodes import Node

__all__ = [
    "Choice",
    "Field",
    "Flag",
    "Integer",
    "Items",
    "Mapping",
    "Number",
    "Object",
    "Text",
    "Union",
    "markdown",
    "validate",
]

_UNITS = {"ms": "milliseconds", "s": "seconds", "per_s": "per second", "tokens": "tokens", "w": "watts"}


@dataclass(frozen=True)
class Field:
    """One value: its documentation, default and whether it must be given."""

    doc: str = ""
    default: Any = None
    required: bool = False

    kind = "value"

    def check(self, node: Node, path: str) -> Any:
        raise NotImplementedError

    def json(self) -> dict[str, Any]:
        raise NotImplementedError

    def nullable(self) -> bool:
        return self.default is None and not self.required


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else ("nothing" if value is None else str(value))


def _unit_of(path: str) -> str:
    key = path.rsplit(".", 1)[-1]
    for suffix, unit in sorted(_UNITS.items(), key=lambda pair: -len(pair[0])):
        if key.endswith("_" + suffix):
            return f" of {unit}" if suffix != "per_s" else " per second"
    return ""


@dataclass(frozen=True)
class Number(Field):
    low: float | None = None
    above: float | None = None
    high: float | None = None
    kind = "number"

    def check(self, node: Node, path: str) -> float:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise node.error(f"'{path}' takes a plain {self.kind}{_unit_of(path)}, not {_shown(value_text(node))}")
        if not math.isfinite(value):
            raise node.error(f"'{path}' must be finite, not {value}")
        if self.low is not None and value < self.low:
            raise node.error(f"'{path}' must be at least {self.low:g}, not {value:g}")
        if self.above is not None and value <= self.above:
            raise node.error(f"'{path}' must be more than {self.above:g}, not {value:g}")
        if self.high is not None and value > self.high:
            raise node.error(f"'{path}' must be at most {self.high:g}, not {value:g}")
        return value

    def json(self) -> dict[str, Any]:
        limits = {"minimum": self.low, "exclusiveMinimum": self.above, "maximum": self.high}
        return {"type": self.kind} | {key: value for key, value in limits.items() if value is not None}


@dataclass(frozen=True)
class Integer(Number):
    kind = "integer"

    def check(self, node: Node, path: str) -> int:
        value = super().check(node, path)
        if value != int(value):
            raise node.error(f"'{path}' takes a whole number{_unit_of(path)}, not {value:g}")
        return int(value)


@dataclass(frozen=True)
class Flag(Field):
    kind = "boolean"

    def check(self, node: Node, path: str) -> bool:
        if not isinstance(node.value, bool):
            raise node.error(f"'{path}' takes true or false, not {_shown(value_text(node))}")
        return node.value

    def json(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Text(Field):
    pattern: str | None = None
    kind = "string"

    def check(self, node: Node, path: str) -> str:
        value = node.value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = f"{value}"  # 8192 among server arguments needs no quotes
        if not isinstance(value, str):
            raise node.error(f"'{path}' takes text, not {_shown(value_text(node))}")
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise node.error(f"'{path}' is '{value}'; it must match {self.pattern}")
        if "\0" in value:
            raise node.error(f"'{path}' contains a zero byte")
        return value

    def json(self) -> dict[str, Any]:
        return {"type": "string"} | ({"pattern": f"^{self.pattern}$"} if self.pattern else {})


@dataclass(frozen=True)
class Choice(Field):
    names: tuple[str, ...] = ()
    kind = "name"

    def check(self, node: Node, path: str) -> str:
        if node.value not in self.names:
            near = difflib.get_close_matches(str(node.value), self.names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join(self.names)}"
            raise node.error(f"'{path}' is {_shown(value_text(node))}: {hint}")
        return str(node.value)

    def json(self) -> dict[str, Any]:
        return {"enum": list(self.names)}


@dataclass(frozen=True)
class Items(Field):
    item: Field = field(default_factory=Text)
    kind = "list"

    def check(self, node: Node, path: str) -> list[Any]:
        if not isinstance(node.value, list):
            raise node.error(f"'{path}' takes a list, not {_shown(value_text(node))}")
        return [self.item.check(child, f"{path}[{i}]") for i, child in enumerate(node.value)]

    def json(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.json()}


@dataclass(frozen=True)
class Mapping(Field):
    """Free keys, all values of one form."""

    item: Field = field(default_factory=Text)
    key_pattern: str = r"[^\0]+"
    kind = "mapping"

    def check(self, node: Node, path: str) -> dict[str, Any]:
        if not isinstance(node.value, dict):
            raise node.error(f"'{path}' takes a mapping, not {_shown(value_text(node))}")
        result = {}
        for key, child in node.value.items():
            if not re.fullmatch(self.key_pattern, key):
                raise child.error(f"'{path}.{key}': the key must match {self.key_pattern}")
            result[key] = self.item.check(child, f"{path}.{key}")
        return result

    def json(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{self.key_pattern}$"},
            "additionalProperties": self.item.json(),
        }


@dataclass(frozen=True)
class Object(Field):
    fields: dict[str, Field] = field(default_factory=dict)
    absent: bool = False  # True: a section that is not given stays None instead of being filled with defaults
    kind = "section"

    def check(self, node: Node, path: str) -> dict[str, Any]:
        if node.value is None:
            node = Node({}, node.where)
        if not isinstance(node.value, dict):
            raise node.error(f"'{path}' takes a section of keys, not {_shown(value_text(node))}")
        for key, child in node.value.items():
            if key not in self.fields:
                raise child.error(_unknown(path, key, self.fields))
        result: dict[str, Any] = {}
        for key, form in self.fields.items():
            where = f"{path}.{key}" if path else key
            given = node.value.get(key)
            if given is None or (given.value is None and form.nullable()):
                if form.required:
                    raise node.error(f"'{where}' is missing ({form.doc})")
                result[key] = _default(form, node, where)
            else:
                result[key] = form.check(given, where)
        return result

    def json(self) -> dict[str, Any]:
        properties = {}
        for key, form in self.fields.items():
            entry = form.json()
            if form.nullable() and not isinstance(form, Union):
                entry = {"anyOf": [entry, {"type": "null"}]}
            if form.doc:
                entry["description"] = form.doc
            if form.default is not None:
                entry["default"] = form.default
            properties[key] = entry
        required = [key for key, form in self.fields.items() if form.required]
        result: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        return result | ({"required": required} if required else {})


@dataclass(frozen=True)
class Union(Field):
    """A section whose `kind` says which other keys it has; a bare number can stand for one of the kinds."""

    kinds: dict[str, Object] = field(default_factory=dict)
    number_as: tuple[str, str] | None = None  # (kind, key) that a bare number stands for
    kind = "one of"

    def check(self, node: Node, path: str) -> dict[str, Any]:
        is_number = isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
        if self.number_as is not None and is_number:
            kind, key = self.number_as
            node = Node({"kind": Node(kind, node.where), key: node}, node.where)
        if not isinstance(node.value, dict):
            raise node.error(f"'{path}' takes a section with a 'kind', not {_shown(value_text(node))}")
        chosen = node.value.get("kind")
        if chosen is None:
            raise node.error(f"'{path}.kind' is missing: one of {', '.join(self.kinds)}")
        name = Choice(names=tuple(self.kinds)).check(chosen, f"{path}.kind")
        rest = Node({key: child for key, child in node.value.items() if key != "kind"}, node.where)
        return {"kind": name} | self.kinds[name].check(rest, path)

    def json(self) -> dict[str, Any]:
        forms: list[dict[str, Any]] = []
        for name, section in self.kinds.items():
            entry = section.json()
            entry["properties"] = {"kind": {"const": name}} | entry["properties"]
            entry["required"] = ["kind", *entry.get("required", [])]
            forms.append(entry)
        if self.number_as is not None:
            kind, key = self.number_as
            forms.append(self.kinds[kind].fields[key].json())
        if self.nullable():
            forms.append({"type": "null"})
        return {"anyOf": forms}


def value_text(node: Node) -> Any:
    """A scalar for an error message; sections and lists by their form."""
    if isinstance(node.value, dict):
        return "a section"
    return "a list" if isinstance(node.value, list) else node.value


def _unknown(path: str, key: str, known: dict[str, Field]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
        name for name in known if name.rsplit("_", 1)[0] == key.rsplit("_", 1)[0]
    ]
    hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
    full = f"{path}.{key}" if path else key
    return f"unknown key '{full}'; {hint}"


def _default(form: Field, node: Node, path: str) -> Any:
    if isinstance(form, Object) and not form.absent:
        return form.check(Node({}, node.where), path)
    return form.default


def markdown(form: Object, path: str = "", depth: int = 0) -> list[str]:
    """The reference table of the case format: one row a key, sections indented by their path."""
    rows: list[str] = []
    for key, item in form.fields.items():
        name = f"{path}.{key}" if path else key
        rows.append(f"| `{name}` | {_type_name(item)} | {_default_text(item)} | {item.doc} |")
        rows.extend(_inner_rows(item, name))
    return rows


def _inner_rows(item: Field, name: str) -> list[str]:
    if isinstance(item, Object):
        return markdown(item, name)
    if isinstance(item, Mapping):
        return _inner_rows(item.item, f"{name}.NAME")
    if isinstance(item, Union):
        rows = []
        for kind, section in item.kinds.items():
            rows.append(f"| `{name}.kind: {kind}` | | | {section.doc} |")
            rows.extend(markdown(section, name))
        return rows
    return []


def _type_name(item: Field) -> str:
    if isinstance(item, Choice):
        return ", ".join(f"`{name}`" for name in item.names)
    if isinstance(item, Union):
        return "one of: " + ", ".join(f"`{name}`" for name in item.kinds)
    if isinstance(item, Items):
        return f"list of {_type_name(item.item)}"
    if isinstance(item, Number):
        bounds = [
            f">= {item.low:g}" if item.low is not None else "",
            f"> {item.above:g}" if item.above is not None else "",
        ]
        bounds.append(f"<= {item.high:g}" if item.high is not None else "")
        return " ".join([item.kind, *filter(None, bounds)])
    return item.kind


def _default_text(item: Field) -> str:
    if item.required:
        return "**required**"
    return "" if item.default is None or isinstance(item, (Object, Union)) else f"`{item.default}`"


def validate(root: Node, form: Object) -> dict[str, Any]:
    """The tree as plain data with every default filled in; UsageError with file and line otherwise."""
    return form.check(root, "")
