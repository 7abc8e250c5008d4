"""A YAML file read strictly, with the place of every value, so that any later error can say file and line.

PyYAML follows YAML 1.1, where `no` is false, `12:30` is 750, `1e-3` is text and a repeated key silently wins.
Here a key given twice is an error, and so is every unquoted word that YAML 1.1 and 1.2 read differently:
nobody has to know which of the two a reader speaks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UsageError

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of a document to a value."""

_TAG = "tag:yaml.org,2002:"
_YAML_1_1 = ("null", "bool", "int", "float", "str", "timestamp", "merge", "value")
"""What PyYAML makes of a word without an explicit tag."""
_YAML_1_2 = (
    ("null", re.compile(r"~|null|Null|NULL|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")),
    (
        "float",
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
    ),
)
"""The core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3.2), leading zeros left out."""


@dataclass
class Document:
    """Plain data and where each value stands. `places` may miss a path; `where` then names its nearest parent."""

    name: str
    data: Any
    places: dict[KeyPath, str]

    def where(self, *path: str | int) -> str:
        """`file:line` (or the command-line flag) that gave the value at `path`, or its nearest parent."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.name)

    def set(self, path: KeyPath, value: Any, place: str) -> None:
        """Replace or add the value at `path`, as --set does; `place` is what later errors will name.

        Raises UsageError when a list has no such position or a parent is neither a mapping nor a list.
        """
        parent = self.data
        for depth, step in enumerate(path[:-1]):
            parent = _child(parent, step, path[: depth + 1], place)
        _assign(parent, path[-1], value, path, place)
        for known in [known for known in self.places if known[: len(path)] == path]:
            del self.places[known]
        self.places[path] = place


def read_document(path: Path) -> Document:
    """Read one YAML file. Raises UsageError for anything that is not a plain, unambiguous YAML document."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _missing(path) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8 text: {error}", str(path)) from None
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", str(path)) from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Like `read_document`, from text; `name` stands for the file in every message."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UsageError(f"not valid YAML: {error.problem or error.context}", _place(name, mark)) from None
    except yaml.YAMLError as error:
        raise UsageError(f"not valid YAML: {' '.join(str(error).split())}", name) from None
    if root is None:
        raise UsageError("the file is empty", name)
    builder = _Builder(name)
    data = builder.build(root, (), ())
    return Document(name, data, builder.places)


def parse_value(text: str, place: str) -> Any:
    """One value as written after `--set KEY=`, by the rules of the file."""
    if not text.strip():
        return None
    try:
        return parse_document(text, place).data
    except UsageError as error:
        raise UsageError(error.message, place) from None


def show_path(path: KeyPath) -> str:
    """A key path as written on the command line.

    >>> show_path(("tables", "prefill", "workloads", 0, "length"))
    'tables.prefill.workloads.0.length'
    """
    return ".".join(str(step) for step in path)


class _Builder:
    """Turns YAML nodes into plain data and notes every place on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[KeyPath, str] = {}

    def build(self, node: yaml.Node, path: KeyPath, parents: tuple[int, ...]) -> Any:
        self.places.setdefault(path, _place(self.name, node.start_mark))
        if id(node) in parents:
            raise UsageError("an alias that contains itself", self.places[path])
        if isinstance(node, yaml.MappingNode):
            return {
                key: self.build(value, (*path, key), (*parents, id(node))) for key, value in self._pairs(node, path)
            }
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i), (*parents, id(node))) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return _scalar(node, path, self.places[path])

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node]]:
        lines: dict[str, int] = {}
        for key_node, value in node.value:
            place, line = _place(self.name, key_node.start_mark), key_node.start_mark.line + 1
            key = _key(key_node, path, place)
            if key in lines:
                full = show_path((*path, key))
                raise UsageError(f"key {full!r} is given twice, in line {lines[key]} and in line {line}", place)
            lines[key] = line
            self.places[*path, key] = place
            yield key, value


def _key(node: yaml.Node, path: KeyPath, place: str) -> str:
    key = _scalar(node, path, place) if isinstance(node, yaml.ScalarNode) else None
    if not isinstance(key, str):
        given = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise UsageError(f"the key {given!r} is not text; keys are names, write them as text", place)
    return key


def _scalar(node: yaml.ScalarNode, path: KeyPath, place: str) -> Any:
    """The value of one scalar; UsageError when it is ambiguous or not finite."""
    text = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind not in _YAML_1_1:
        raise UsageError(f"{_named(path)}the tag {node.tag!r} is not allowed; write plain values", place)
    if node.style is not None:
        return text
    if kind != _kind_in_yaml_1_2(text):
        raise UsageError(f"{_named(path)}{_advice(text, kind)}", place)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0)
    if kind == "float":
        return _finite(text, path, place)
    return text


def _finite(text: str, path: KeyPath, place: str) -> float:
    if text.lower().lstrip("+-") in (".inf", ".nan") or not math.isfinite(float(text)):
        raise UsageError(f"{_named(path)}{text} is not a finite number", place)
    return float(text)


def _kind_in_yaml_1_2(text: str) -> str:
    return next((kind for kind, pattern in _YAML_1_2 if pattern.fullmatch(text)), "str")


def _advice(text: str, kind: str) -> str:
    """What is wrong with an ambiguous word and how to write it instead."""
    if _kind_in_yaml_1_2(text) == "float":
        return (
            f"{text} is text in YAML 1.1, which wants a point and a signed exponent; "
            f"write {_with_point(text)} for the number, or '{text}' for text"
        )
    if kind == "bool":
        meant = str(text.lower() in ("yes", "on")).lower()
        return f"{text} is read as {meant} by some YAML readers; write {meant}, or '{text}' for text"
    if kind == "int":
        meant = yaml.safe_load(text)
        return f"{text} is read as {meant} by some YAML readers; write {meant} for the number, or '{text}' for text"
    return f"{text} is read as a {kind} by some YAML readers; write '{text}' for text"


def _with_point(text: str) -> str:
    """`1e-3` as both YAMLs read it: `1.0e-3`."""
    mantissa, _, exponent = text.lower().partition("e")
    mantissa += "" if "." in mantissa else ".0"
    return f"{mantissa}e{exponent if exponent[:1] in '+-' else '+' + exponent}"


def _named(path: KeyPath) -> str:
    return f"{show_path(path)}: " if path else ""


def _place(name: str, mark: yaml.Mark | None) -> str:
    return f"{name}:{mark.line + 1}" if mark else name


def _missing(path: Path) -> UsageError:
    folder = path.parent
    if not folder.is_dir():
        return UsageError(f"there is no folder {str(folder)!r}", str(path))
    import difflib

    names = sorted(file.name for file in folder.glob("*.yaml"))
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {str(folder / near[0])!r}?" if near else ""
    there = f" YAML files there: {', '.join(names)}" if names else " there is no YAML file in that folder"
    return UsageError(f"the file does not exist{hint}{';' if not hint else ''}{there}", str(path))


def _child(parent: Any, step: str | int, path: KeyPath, place: str) -> Any:
    if isinstance(parent, dict):
        if parent.get(str(step)) is None:
            parent[str(step)] = {}
        return parent[str(step)]
    return parent[_position(parent, step, path, place)]


def _assign(parent: Any, step: str | int, value: Any, path: KeyPath, place: str) -> None:
    if isinstance(parent, dict):
        parent[str(step)] = value
    else:
        parent[_position(parent, step, path, place)] = value


def _position(parent: Any, step: str | int, path: KeyPath, place: str) -> int:
    above = show_path(path[:-1])
    if not isinstance(parent, list):
        raise UsageError(f"{above} is a single value and has no key {step!r}", place)
    if not str(step).isdigit() or int(step) >= len(parent):
        raise UsageError(f"{above} is a list; {step!r} is no position in it, allowed: 0 to {len(parent) - 1}", place)
    return int(step)
