"""Which cell a cell is held against: a fast answer counts only when it is the right one.

References have no reference themselves, so it is enough to finish them before the cells that point at them.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.suite.cell import CellId
from harness.suite.variant import Variant

CHECKED = ("prefill", "decode", "generate")
"""Workload kinds whose answer is checked after timing, against that of another cell."""

TIMED = (*CHECKED, "op")
"""Workload kinds that have a clock, and so rounds and processes."""


def reference_of(cell: CellId, cells: Sequence[CellId], baseline: Variant) -> CellId | None:
    """The cell whose stored outputs `cell` is held against; `cells` are those that can run, in table order.

    Checked kinds: the baseline when it has the same selector, else the first cell of that selector, because a
    sparse selector is a different function of the weights. `equivalence`: the baseline, whatever its selector and
    whether or not it can run, because how far a variant strays from it is the question. None for a reference
    itself and for all other kinds.
    """
    kind = cell.workload["kind"]
    if kind == "equivalence":
        candidates = [CellId(cell.table, cell.workload, baseline)]
    elif kind in CHECKED:
        candidates = [other for other in cells if _comparable(other, cell)]
        candidates.sort(key=lambda other: other.variant != baseline)
    else:
        candidates = []
    return candidates[0] if candidates and candidates[0] != cell else None


def _comparable(one: CellId, other: CellId) -> bool:
    same_workload = (one.table, one.workload) == (other.table, other.workload)
    return same_workload and one.variant.selector == other.variant.selector
