"""The one table of what the conformance kit allows, each figure with its reason. Never loosened inside a check.

Errors are relative L2 norms of rows (logits over the vocabulary, an operator's last dimension). `typical` bounds
the median row, `worst` every row: they differ where two correct programs may decide differently, since a rounding
error can swap two candidates of nearly equal score in DSA's top-k or in the router, and that row becomes another.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.suite.variant import Variant


@dataclass(frozen=True)
class Tolerance:
    """Allowed relative L2 errors of the median row and of the worst one."""

    typical: float
    worst: float
    reason: str


LOGITS: dict[str, Tolerance] = {
    "fp64": Tolerance(2e-7, 1e-6, "FP64 inside; logits are handed out in float32"),
    "fp32": Tolerance(1e-5, 1e-4, "24 bits of mantissa through two layers, sums in any order"),
    "bf16": Tolerance(3e-2, 1.5, "8 bits of mantissa through two layers; a swapped key or expert changes its row"),
}
"""Logits of a variant against the FP64 reference, or against another way through the same variant, by precision.

Measured over all built-in variants: 6e-8, 6e-7 and 1.2e-2 in the median row.
"""

LOSSY_CACHE = Tolerance(6e-2, 1.5, "keys are stored in a narrower format than they are computed in")
"""The same for variants whose cache rounds what it stores: E4M3 latents alone move attention by 1.4e-2."""

OPERATORS: dict[tuple[str, str], Tolerance] = {
    ("*", "fp32"): Tolerance(1e-6, 5e-6, "24 bits of mantissa, one operator"),
    ("*", "bf16"): Tolerance(4e-3, 1e-2, "one rounding of the result to 8 bits of mantissa, and of values in between"),
    ("mha_attention", "bf16"): Tolerance(1e-2, 3e-2, "probabilities and the result are rounded to 8 bits of mantissa"),
    ("mqa_attention", "bf16"): Tolerance(1e-2, 3e-2, "probabilities and the result are rounded to 8 bits of mantissa"),
    ("mqa_sparse_attention", "bf16"): Tolerance(1e-2, 3e-2, "probabilities and the result are rounded to 8 bits"),
    ("grouped_experts", "bf16"): Tolerance(1e-2, 3e-2, "gate, up, their product and the result are rounded to 8 bits"),
    ("index_scores", "bf16"): Tolerance(1e-6, 5e-6, "computed in FP32 whatever the inputs: the contract says so"),
}
"""An operator against `eager` in FP64 on the same inputs, by (slot, dtype of the inputs); `*` for all others."""

CACHES = {
    "fp32": Tolerance(1e-6, 1e-6, "stored as it is"),
    "bf16": Tolerance(4e-3, 8e-3, "stored as it is; expanded keys are rounded once to 8 bits"),
    "lossy": Tolerance(4e-2, 6e-2, "stored in a narrower format: E4M3 with a scale per group loses 2.6e-2"),
}
"""Rows read back from a cache, by precision; `lossy` for formats that round what they store."""


def for_logits(variant: Variant, lossy_cache: bool) -> Tolerance:
    """What is allowed for a variant; an unlisted precision is held to the coarsest: neither trusted nor excused."""
    return LOSSY_CACHE if lossy_cache else LOGITS.get(variant.precision, LOGITS["bf16"])


def for_operator(slot: str, precision: str) -> Tolerance:
    """What is allowed for an operator slot in a precision."""
    return OPERATORS.get((slot, precision)) or OPERATORS["*", precision]
