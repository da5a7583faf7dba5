"""YAML read into nodes that remember their file and line, so that every complaint can point at its cause."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Union

import yaml

from revati import UsageError

__all__ = ["Node", "Plain", "merge", "parse_text", "plain", "read_yaml", "set_path"]

Plain = Union[None, bool, int, float, str, "list[Plain]", "dict[str, Plain]"]

_BYTES_MAX = 1 << 20
_NODES_MAX = 100_000


@dataclass
class Node:
    """A value with its origin: `value` is a scalar, a list of nodes or a mapping of nodes."""

    value: bool | int | float | str | list[Node] | dict[str, Node] | None
    where: str  # "case.yaml:12", "preset vllm-serve", "--set seed=3"

    def error(self, message: str) -> UsageError:
        return UsageError(f"{self.where}: {message}")


def plain(node: Node) -> Plain:
    """The node's value without origins."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value


def read_yaml(path: Path) -> Node:
    """Reads one YAML document; UsageError with file and line for anything that is not one."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read: {error.strerror}") from None
    if len(raw) > _BYTES_MAX:
        raise UsageError(f"{path}: {len(raw)} bytes is too long for a case file (at most {_BYTES_MAX})")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8") from None
    return parse_text(text, str(path))


def parse_text(text: str, name: str, *, lines: bool = True) -> Node:
    """Parses YAML text; `name` and, with `lines`, the line number become the origin of each node."""
    try:
        loader = yaml.SafeLoader(text)
        tree = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark is not None and lines else ""
        raise UsageError(f"{name}{line}: not valid YAML: {error.problem or error.context or error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if tree is None:
        raise UsageError(f"{name}: the file is empty")
    count = [0]
    return _convert(tree, loader, name, lines, count, ())


def _convert(
    tree: yaml.Node, loader: yaml.SafeLoader, name: str, lines: bool, count: list[int], parents: tuple[int, ...]
) -> Node:
    where = f"{name}:{tree.start_mark.line + 1}" if lines else name
    count[0] += 1
    if count[0] > _NODES_MAX:
        raise UsageError(f"{where}: more than {_NODES_MAX} values: anchors that multiply, or not a case file")
    if id(tree) in parents:
        raise UsageError(f"{where}: an alias contains itself")
    inner = (*parents, id(tree))
    if isinstance(tree, yaml.MappingNode):
        items: dict[str, Node] = {}
        for key_node, value_node in tree.value:
            key_where = f"{name}:{key_node.start_mark.line + 1}" if lines else name
            key = getattr(key_node, "value", None)
            if not isinstance(key, str):
                raise UsageError(f"{key_where}: a key must be plain text")
            if key == "<<":
                raise UsageError(f"{key_where}: merge keys (<<) are not supported; use 'preset' or repeat the values")
            if key in items:
                raise UsageError(f"{key_where}: key '{key}' appears twice")
            child = _convert(value_node, loader, name, lines, count, inner)
            items[key] = Node(child.value, key_where)
        return Node(items, where)
    if isinstance(tree, yaml.SequenceNode):
        return Node([_convert(item, loader, name, lines, count, inner) for item in tree.value], where)
    try:
        value = loader.construct_object(tree, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{where}: not a plain value: {str(error).splitlines()[0]}") from None
    if value is not None and not isinstance(value, (bool, int, float, str)):
        value = str(tree.value)  # dates, binaries: the text as written
    return Node(value, where)


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings merge key by key, anything else is replaced.

    A mapping whose `kind` differs replaces the other one whole: the parameters of another kind mean nothing.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    kinds = [node.value["kind"].value for node in (base, over) if isinstance(node.value, dict) and "kind" in node.value]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        return over
    items = dict(base.value)
    for key, node in over.value.items():
        items[key] = merge(items[key], node) if key in items else node
    return Node(items, over.where)


def set_path(root: Node, assignment: str) -> Node:
    """Applies one `a.b=value` of the command line (the value is YAML) to the tree."""
    path, sep, text = assignment.partition("=")
    origin = f"--set {assignment}"
    keys = path.split(".")
    if not sep or not all(keys):
        raise UsageError(f"{origin}: write it as key.key=value")
    node = Node("", origin) if text == "" else parse_text(text, origin, lines=False)
    for key in reversed(keys):
        if key.isdigit():
            raise UsageError(f"{origin}: list items cannot be set one by one; give the whole list, as in a.b=[1, 2]")
        node = Node({key: node}, origin)
    return merge(root, node)
