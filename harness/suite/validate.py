"""Plain data to typed structs, and msgspec's complaint to one that a reader of the file can act on."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from harness.errors import UsageError, unknown
from harness.suite.document import Document, KeyPath, show_path

T = TypeVar("T")


def convert(document: Document, kind: type[T]) -> T:
    """The document as a `kind`; UsageError says file, line, key, what was given, what is allowed, the nearest name."""
    try:
        return msgspec.convert(document.data, kind)
    except msgspec.ValidationError as error:
        raise _translate(error, document, kind) from None


def _translate(error: msgspec.ValidationError, document: Document, kind: type) -> UsageError:
    from msgspec import inspect

    path, node = _locate(str(error), document.data, inspect.type_info(kind))
    return _explain(str(error), document, path, node)


def _locate(message: str, data: Any, node: Any) -> tuple[KeyPath, Any]:
    """Key path and type of what msgspec complains about; it writes `[...]` for keys of a mapping."""
    path: KeyPath = ()
    for name, position in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", _msgspec_path(message)):
        node = _fitting(node, data)
        if position == "...":
            key, inner = _offending(data, node)
            deeper, node = _locate(inner, data[key], node.value_type)
            return (*path, key, *deeper), node
        if name and name in data:
            data, node, path = data[name], _field_type(node, name), (*path, name)
        elif position:
            data, node, path = data[int(position)], _item_type(node, int(position)), (*path, int(position))
    return path, _fitting(node, data)


def _msgspec_path(message: str) -> str:
    found = re.search(r" - at (?:`key` in )?`\$(.*)`$", message)
    return found.group(1) if found else ""


def _offending(data: dict[str, Any], node: Any) -> tuple[str, str]:
    """The first key of a mapping whose value does not fit, with msgspec's message about that value."""
    for key, value in data.items():
        try:
            msgspec.convert(value, node.value_type.cls)
        except msgspec.ValidationError as error:
            return key, str(error)
    raise AssertionError("msgspec complained about a mapping whose values all fit")


def _fitting(node: Any, data: Any) -> Any:
    """The member of a union that `data` was meant to be, as far as that can be told."""
    members = [member for member in getattr(node, "types", ())]
    structs = [member for member in members if hasattr(member, "fields")]
    if isinstance(data, dict) and structs:
        tagged = [member for member in structs if data.get(member.tag_field) == member.tag]
        return tagged[0] if tagged else (structs[0] if len(structs) == 1 else node)
    if isinstance(data, list):
        return next((member for member in members if hasattr(member, "item_type")), node)
    return node


def _item_type(node: Any, position: int) -> Any:
    """The type of a place in a list, or in a tuple, which has one for every place."""
    return node.item_types[position] if hasattr(node, "item_types") else node.item_type


def _field_type(node: Any, name: str) -> Any:
    return next((field.type for field in getattr(node, "fields", ()) if field.encode_name == name), node)


def _explain(message: str, document: Document, path: KeyPath, node: Any) -> UsageError:
    if " - at `key` in `$" in message:
        return _wrong_key(document, path, node)
    where = document.where(*path)
    extra = re.match(r"Object contains unknown field `(.*?)`", message)
    if extra:
        known = [field.encode_name for field in node.fields] + ([node.tag_field] if node.tag_field else [])
        inside = f" in {show_path(path)}" if path else ""
        return unknown(f"key{inside}", extra.group(1), known, document.where(*path, extra.group(1)))
    missing = re.match(r"Object missing required field `(.*?)`", message)
    if missing:
        return UsageError(
            f"{_show(path)} has no key {missing.group(1)!r}; {_allowed_for(node, missing.group(1))}", where
        )
    value = _value(document.data, path)
    if message.startswith(("Invalid enum value", "Invalid value")) and isinstance(value, str):
        return unknown(_show(path), value, _names(node, path), where)
    return UsageError(f"{_show(path)} is {_given(value)}; allowed: {_describe(node)}{_hint(value, node)}", where)


def _wrong_key(document: Document, path: KeyPath, node: Any) -> UsageError:
    """A mapping's key that is no such name; msgspec does not say which one."""
    pattern = node.key_type.pattern
    key = next(key for key in _value(document.data, path) if not re.search(pattern, key))
    return UsageError(
        f"{_show(path)} has the key {key!r}; allowed: names that match {pattern}", document.where(*path, key)
    )


def _show(path: KeyPath) -> str:
    return show_path(path) or "the file"


def _value(data: Any, path: KeyPath) -> Any:
    for step in path:
        data = data[step]
    return data


def _names(node: Any, path: KeyPath) -> list[str]:
    """Allowed words: of a literal, or the tags of a union of structs."""
    structs = [member for member in getattr(node, "types", [node]) if hasattr(member, "fields")]
    if structs:
        return [str(member.tag) for member in structs if member.tag_field == path[-1]]
    return [str(value) for member in getattr(node, "types", [node]) for value in getattr(member, "values", ())]


def _allowed_for(node: Any, key: str) -> str:
    if not hasattr(node, "fields"):  # a union of tagged structs whose tag is what is missing
        return f"allowed: {', '.join(_names(node, (key,)))}"
    allowed = _field_type(node, key)
    if allowed is node:
        return f"allowed: {node.tag}"
    return f"it must be {_describe(allowed)}"


def _given(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return f"the text {value!r}" if isinstance(value, str) else f"the number {value}"


def _describe(node: Any) -> str:
    """A type in words."""
    name = type(node).__name__
    if name == "UnionType":
        return " or ".join(
            dict.fromkeys(_describe(member) for member in node.types if type(member).__name__ != "NoneType")
        )
    if name in ("ListType", "CollectionType"):
        return f"a list of {'at least one item, each ' if node.min_length else ''}{_describe(node.item_type)}"
    if name == "LiteralType":
        return " or ".join(repr(value) for value in node.values)
    if name == "StructType":
        return f"a mapping with the keys {', '.join(field.encode_name for field in node.fields)}"
    if name == "DictType":
        return f"a mapping of {'at least one name' if node.min_length else 'names'} to {_describe(node.value_type)}"
    words = {
        "IntType": "a whole number",
        "FloatType": "a number",
        "StrType": "text",
        "BoolType": "true or false",
        "DateType": "a day such as '2027-03-01'",
    }
    return words.get(name, name) + _bounds(node)


def _bounds(node: Any) -> str:
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    given = [(word, getattr(node, bound, None)) for bound, word in words.items()]
    texts = [f" {word} {limit:g}" for word, limit in given if limit is not None]
    if getattr(node, "pattern", None):
        texts.append(f" that matches {node.pattern}")
    if getattr(node, "min_length", None):
        texts.append(" that is not empty")
    return "".join(texts)


def _hint(value: Any, node: Any) -> str:
    """How to write a number that was written as text."""
    if not isinstance(value, str) or "number" not in _describe(node):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return f"; write it without quotes: {int(number) if number.is_integer() else number}"
