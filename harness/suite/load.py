"""From a suite file and the command line's changes to a checked `Suite` that still knows its lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError, unknown
from harness.suite.document import Document, parse_value, read_document
from harness.suite.schema import Suite
from harness.suite.validate import convert


@dataclass(frozen=True)
class Changes:
    """What the command line changes in a suite; each is checked like the file itself."""

    settings: Sequence[str] = ()
    """`KEY=VALUE` texts of --set; keys are dotted, such as `tables.prefill.sampling.rounds`."""
    checkpoint: str | None = None
    """For every table: a directory, relative to where the command runs, or a preset's name."""
    device: str | None = None
    threads: int | None = None
    seed: int | None = None
    limit: int | None = None
    """Documents per accuracy task, in every table."""


@dataclass(frozen=True)
class LoadedSuite:
    """A checked suite with its name, its file and the places of its values."""

    suite: Suite
    name: str
    path: Path
    document: Document

    def where(self, *path: str | int) -> str:
        """`file:line` or command-line flag of the value at `path`."""
        return self.document.where(*path)

    @property
    def plugins(self) -> list[str]:
        """The suite's own plugins; files are made absolute."""
        return [_from_suite(self.path, plugin) if plugin.endswith(".py") else plugin for plugin in self.suite.plugins]

    def checkpoint(self, table: str) -> str:
        """The table's checkpoint: an absolute directory where there is one, else the text as given (a preset)."""
        given = self.suite.tables[table].checkpoint
        key = ("tables", table, "checkpoint")
        if self.document.places.get(key, "").startswith("--"):
            return str(Path(given).resolve()) if Path(given).is_dir() else given
        return _from_suite(self.path, given)


def load_suite(path: Path | str, changes: Changes | None = None) -> LoadedSuite:
    """Read, change and check a suite. Raises UsageError naming file, line and key (or the flag) of what is wrong."""
    return suite_of(read_document(Path(path)), Path(path), changes)


def suite_of(document: Document, file: Path, changes: Changes | None = None) -> LoadedSuite:
    """The suite that a document holds; `file` names it, and paths in it are relative to its folder."""
    _apply(document, changes or Changes())
    convert(document, Suite)
    _inherit_sampling(document)
    return LoadedSuite(convert(document, Suite), file.stem, file, document)


def _apply(document: Document, changes: Changes) -> None:
    for setting in changes.settings:
        _apply_setting(document, setting)
    for name in ("device", "threads", "seed"):
        value = getattr(changes, name)
        if value is not None:
            document.set((name,), value, f"--{name} {value}")
    for table in _mappings(document, "tables"):
        if changes.checkpoint is not None:
            document.set(("tables", table, "checkpoint"), changes.checkpoint, f"--checkpoint {changes.checkpoint}")
        if changes.limit is not None:
            _apply_limit(document, table, changes.limit)


def _apply_setting(document: Document, setting: str) -> None:
    key, equals, text = setting.partition("=")
    place = f"--set {setting}"
    path = tuple(key.split("."))
    if not equals or not all(path):
        raise UsageError("allowed: KEY=VALUE with a dotted key, such as sampling.rounds=5", place)
    if not isinstance(document.data, dict):
        return  # the check of the file itself says what is wrong
    tables = _mappings(document, "tables")
    if path[0] == "tables" and len(path) > 1 and path[1] not in tables:
        raise unknown("table", path[1], tables, place)
    document.set(_positions(document, path), parse_value(text, place), place)


def _positions(document: Document, path: tuple[str, ...]) -> tuple[str | int, ...]:
    """The same path with list positions as numbers, so that it equals the path that the file would give."""
    steps: list[str | int] = []
    data = document.data
    for step in path:
        is_position = isinstance(data, list) and step.isdigit() and int(step) < len(data)
        steps.append(int(step) if is_position else step)
        data = data[int(step)] if is_position else data.get(step) if isinstance(data, dict) else None
    return tuple(steps)


def _apply_limit(document: Document, table: str, limit: int) -> None:
    workloads = document.data["tables"][table].get("workloads")
    for position, workload in enumerate(workloads if isinstance(workloads, list) else ()):
        if isinstance(workload, dict) and workload.get("kind") == "accuracy":
            document.set(("tables", table, "workloads", position, "limit"), limit, f"--limit {limit}")


def _inherit_sampling(document: Document) -> None:
    """A table's sampling overrides the suite's key by key, so that naming one key keeps the others."""
    common: dict[str, Any] = document.data.get("sampling") or {}
    for table in _mappings(document, "tables"):
        own = document.data["tables"][table].get("sampling") or {}
        document.data["tables"][table]["sampling"] = {**common, **own}


def _mappings(document: Document, key: str) -> list[str]:
    """Names of the entries below `key` that are mappings; the check of the file complains about the others."""
    entries = document.data.get(key) if isinstance(document.data, dict) else None
    return [name for name, value in entries.items() if isinstance(value, dict)] if isinstance(entries, dict) else []


def _from_suite(suite: Path, given: str) -> str:
    """`given` relative to the suite file when that exists (or has to be a file), else as it is: a preset's name."""
    path = suite.parent / given
    return str(path.resolve()) if path.exists() or given.endswith(".py") else given
