"""What names a cell: one workload of one table under one variant."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from harness.suite.variant import Variant


class CellId(msgspec.Struct, frozen=True):
    """Names a cell inside a suite: table, workload and variant."""

    table: str
    workload: dict[str, Any]
    variant: Variant

    @property
    def id(self) -> str:
        """Printable and stable: `table:kind[key=value,...]:variant-id`."""
        rest = ",".join(f"{key}={value}" for key, value in sorted(self.workload.items()) if key != "kind")
        return f"{self.table}:{self.workload['kind']}[{rest}]:{self.variant.id}"

    @property
    def slug(self) -> str:
        """Short file name for this cell's own files."""
        return f"{self.table}-{self.workload['kind']}-{hashlib.sha256(self.id.encode()).hexdigest()[:12]}"
