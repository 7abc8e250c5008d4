"""Compiled kernels build by build: rows of text from the samples of records of kind `compile`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.records.record import Record

HEADERS = ("build", "target", "registers", "spills", "shared", "of limit", "matrix instructions")


def title(record: Record) -> str:
    """What was compiled, by whom."""
    what = record.workload.get("operator") or "all operators"
    compiler = record.context.get("compiler") or "?"
    return f"kernels {record.variant.kernels}, {what}, {record.workload['target']}, {compiler}"


def rows(documents: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row a build; a build that does not compile says why in the last column."""
    return [_row(document) for document in documents]


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    name = facts["build"], facts["target"]
    if facts.get("failure") is not None:
        return (*name, "", "", "", "", f"FAILS: {facts['failure']}")
    used, limit = facts["shared_memory"], facts["shared_limit"]
    figures = str(facts["registers"]), _bytes(facts["spills"]), f"{used / 1024:.1f} KiB", f"{used / limit:.0%}"
    return (*name, *figures, _instructions(facts))


def _bytes(count: int) -> str:
    return f"{count} B" if count else "-"


def _instructions(facts: dict[str, Any]) -> str:
    """Kinds and counts; what was to be expected and is not there is said."""
    found = ", ".join(f"{kind} {count}" for kind, count in facts["instructions"].items())
    return found or ("NONE" if facts["matrix_product"] else "-")
