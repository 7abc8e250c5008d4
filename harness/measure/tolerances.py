"""How far two correct variants may be apart: the one table of tolerances, each with its reason.

Errors are relative L2 over the vocabulary, one a row of logits. Two correct programs do not only round differently,
they may take another decision: DSA keeps the best index_topk keys and a router the best experts, and rounding can
swap two candidates whose scores are nearly equal. A swap moves few rows, and those much; a fault (wrong mask, dropped
block, wrong layout, stale cache) moves all rows. So a share of the rows has to be within `typical`, and every row
within `worst`, which unrelated answers and answers to other inputs (error sqrt(2)) cannot be.

The figures were measured on the presets and on a small trained model, and are far from both sides: correct fp32
variants (forms, transformers) are 2e-7 to 3e-6 apart, once 2e-4 where transformers broke a tie otherwise; bf16 ones
3e-3 to 2e-2 (dense) and to 2e-1 (DSA), with single rows at 0.1 to 1.0 where an expert or a key was swapped. The faults
planted in tests/measure/test_tolerances.py move every fp32 row by 0.1 and more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.contract.config import ModelConfig
from harness.suite.variant import Variant


@dataclass(frozen=True)
class Tolerance:
    """Allowed relative L2 errors."""

    typical: float
    """At least `share` of the rows are within this."""
    share: float
    worst: float
    """Every row is within this."""
    reason: str


MOST = 1.2
"""The loosest `worst`: below sqrt(2), the error of an unrelated answer of the same norm."""

TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("fp32", "dense"): Tolerance(1e-4, 1 / 2, 1e-2, "sums in another order; 1e-2 leaves room for one swapped expert"),
    ("fp32", "dsa"): Tolerance(1e-3, 1 / 2, 1e-2, "sums in another order, and keys swapped at earlier positions"),
    ("bf16", "dense"): Tolerance(
        5e-2, 1 / 3, 1.0, "8 bits of mantissa through all layers, and experts swapped by them"
    ),
    ("bf16", "dsa"): Tolerance(5e-2, 1 / 3, MOST, "8 bits of mantissa, and experts and keys swapped by them"),
    ("fp8 cache", "dense"): Tolerance(1e-1, 1 / 3, 1.0, "latents in E4M3, and experts swapped by it"),
    ("fp8 cache", "dsa"): Tolerance(1e-1, 1 / 3, MOST, "latents and index keys in E4M3, and experts and keys swapped"),
    ("fp8", "dense"): Tolerance(2.5e-1, 1 / 3, MOST, "products of E4M3 operands in all layers, and experts swapped"),
    ("fp8", "dsa"): Tolerance(2.5e-1, 1 / 3, MOST, "products of E4M3 operands, and experts and keys swapped by them"),
}
"""By (coarser precision of the two cells, selector); DSA's swaps come on top, see `tolerance`.

E4M3 products moved the logits of presets by 4e-2 to 1.4e-1 in the median row, an FP8 cache by 2e-2 to 4e-2: what is
allowed here stops nonsense; kernels are held to the definition of FP8 by `harness check` and by `op` cells.
"""

COARSENESS = ("fp64", "fp32", "bf16", "fp8 cache", "fp8")
"""Precisions from fine to coarse; the coarser of two cells decides how far apart they may be."""


def tolerance(variant: Variant, reference: Variant, config: ModelConfig) -> Tolerance:
    """How far `variant` may be from `reference` on a model of these dimensions.

    In a flat attention over index_topk keys, one swapped key changes the output by sqrt(2 / index_topk) of its norm:
    with DSA, `typical` has room for one such swap but in fp32 (elsewhere it is the rule), and `worst` for four in fp32.

    A precision or selector that a plugin brings and that has no entry is held to bf16 and to dsa: it cannot be trusted
    more than what is known, and it is not excused from the check either.
    """
    precision = max((_coarseness(variant), _coarseness(reference), "fp32"), key=COARSENESS.index)
    selector = "dense" if variant.selector == "dense" else "dsa"
    base = TOLERANCES[precision, selector]
    if selector == "dense" or not config.index_topk:
        return base
    swap = math.sqrt(2 / config.index_topk)
    typical = base.typical + (0.0 if precision == "fp32" else swap)
    return Tolerance(typical, base.share, min(MOST, base.worst + 4 * swap), base.reason)


def _coarseness(variant: Variant) -> str:
    """One of COARSENESS: of the products, or of the cache where that is coarser."""
    if variant.precision in ("fp8", "fp8_ue8m0"):
        return "fp8"
    if variant.cache == "fp8":
        return "fp8 cache"
    return variant.precision if variant.precision in COARSENESS else "bf16"
