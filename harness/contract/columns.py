"""A further column that a plugin adds to report tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """`value` sees one stored record (a plain dict, as in records.jsonl) and returns text, a number or None."""

    header: str
    value: Callable[[dict[str, Any]], str | float | None]
