"""How far two correct variants may be apart: the one table of tolerances, each with its reason.

Errors are relative L2 over the vocabulary, one a row of logits. `typical` bounds the (lower) median row, `worst`
every row. The two differ where two correct programs may take different decisions: DSA keeps the best index_topk
keys, a router keeps the best experts, and a rounding error of the last bit can swap two candidates whose scores
are nearly equal. Such a swap is rare and moves one row much; a fault (wrong mask, dropped block, wrong layout,
stale cache) moves all rows. So the typical row decides, and `worst` catches what no swap can do.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.suite.variant import Variant


@dataclass(frozen=True)
class Tolerance:
    """Allowed relative L2 errors."""

    typical: float
    worst: float
    reason: str


TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("fp32", "dense"): Tolerance(1e-4, 1e-2, "fp32 dense: rounding of sums in another order"),
    ("fp32", "dsa"): Tolerance(2e-3, 0.3, "fp32 dsa: rounding, rarely a swapped key"),
    ("bf16", "dense"): Tolerance(5e-2, 0.3, "bf16 dense: 8 bits of mantissa through all layers"),
    ("bf16", "dsa"): Tolerance(1e-1, 0.5, "bf16 dsa: 8 bits of mantissa, and keys swapped by them"),
}
"""By (coarser precision of the two cells, selector)."""

COARSENESS = ("fp64", "fp32", "bf16")
"""Precisions from fine to coarse; the coarser of two cells decides how far apart they may be."""


def tolerance(variant: Variant, reference: Variant) -> Tolerance:
    """How far `variant` may be from `reference`.

    A precision or selector that a plugin brings and that has no entry here is held to the coarsest one that has:
    it cannot be trusted more than what is known, and it is not excused from the check either.
    """
    precision = max((_known(variant.precision), _known(reference.precision), "fp32"), key=COARSENESS.index)
    selector = "dense" if variant.selector == "dense" else "dsa"
    return TOLERANCES[precision, selector]


def _known(precision: str) -> str:
    return precision if precision in COARSENESS else COARSENESS[-1]
