"""The one table of what the conformance kit allows, each figure with its reason. Never loosened inside a check.

Errors are relative L2 norms of rows (logits over the vocabulary, an operator's last dimension). `typical` bounds
the median row, `worst` every row: they differ where two correct programs may decide differently, since a rounding
error can swap two candidates of nearly equal score in DSA's top-k or in the router, and that row becomes another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.suite.variant import Variant


@dataclass(frozen=True)
class Tolerance:
    """Allowed relative L2 errors of the median row and of the worst one."""

    typical: float
    worst: float
    reason: str
    rows: int = 1
    """Fewest rows that have a median: where one rounding may choose another expert, a single row is not typical."""


FP8 = ("fp8", "fp8_ue8m0")
"""Precisions with E4M3 products."""

LOGITS: dict[str, Tolerance] = {
    "fp64": Tolerance(2e-7, 1e-6, "FP64 inside; logits are handed out in float32"),
    "fp32": Tolerance(1e-5, 1e-4, "24 bits of mantissa through two layers, sums in any order"),
    "bf16": Tolerance(3e-2, 1.5, "8 bits of mantissa through two layers; a swapped key or expert changes its row"),
    "fp8": Tolerance(
        1.5e-1, 1.5, "what BF16 rounds, E4M3 rounds on: to a number up to 1/16 away when it falls between two", rows=3
    ),
}
"""Logits of a variant against the FP64 reference, or against another way through the same variant, by precision.

Measured over all built-in variants: 6e-8, 6e-7 and 1.2e-2 in the median row. `fp8` is for two ways through it (the
reference is farther away, see FP8_PRODUCTS): 4e-2 to 9e-2 between BF16 and exact activations.
"""

LOSSY_CACHE = Tolerance(5e-2, 1.5, "keys are stored in a narrower format than they are computed in")
"""Logits of a variant whose cache rounds what it stores against the FP64 reference, which does not.

E4M3 latents alone move attention by 1.4e-2; measured 1.8e-2 to 3.9e-2 in the median row of the tiny models.
"""

FP8_PRODUCTS = Tolerance(
    2e-1, 1.5, "products of E4M3 operands: 3.7e-2 each, a dozen of them and a router in two layers"
)
"""Logits of precision fp8 or fp8_ue8m0 against the FP64 reference, which does not quantise; measured 6e-2 to 1.4e-1."""

QUANTISED_ALIKE = Tolerance(1e-4, 1.5, "24 bits of mantissa; a value between two E4M3 numbers may fall to either side")
"""With FP32 activations, against FP64 ones under the same quantisation; measured 3e-7 to 1e-5 in the median row.

This is what holds FP8 to its definition; the two above only say that the definition is near the real numbers.
"""

CALC_DIFF = {
    "exact": (1e-5, "DeepSeek's ladder for BF16 results: one rounding to 8 bits of mantissa, sums in any order"),
    "experts": (3e-4, "gate and up are rounded to BF16, and E4M3 rounds some of their products to the other side"),
    "rotated": (1e-5, "sums of the Hadamard transform run in any order, so a value may fall to another E4M3 number"),
}
"""`calc_diff` of an FP8 operator against `eager` in FP64 on the same quantised operands, and why."""

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
    "lossy": Tolerance(3.5e-2, 4.5e-2, "stored in a narrower format: E4M3 with a scale per group loses 2.6e-2"),
}
"""Rows read back from a cache, by precision; `lossy` for formats that round what they store."""


def for_logits(variant: Variant, lossy_cache: bool) -> Tolerance:
    """What is allowed against the reference; an unlisted precision is held to bf16's: neither trusted nor excused."""
    if variant.precision in FP8:
        return FP8_PRODUCTS
    return LOSSY_CACHE if lossy_cache else LOGITS.get(variant.precision, LOGITS["bf16"])


def for_ways(variant: Variant, lossy_cache: bool) -> Tolerance:
    """What is allowed between two ways through a variant: what it quantises, both quantise."""
    plain = LOGITS["fp8"] if variant.precision in FP8 else LOGITS.get(variant.precision, LOGITS["bf16"])
    return replace(plain, worst=1.5, reason=QUANTISED_ALIKE.reason) if lossy_cache else plain


def for_operator(slot: str, precision: str) -> Tolerance:
    """What is allowed for an operator slot in a precision."""
    return OPERATORS.get((slot, precision)) or OPERATORS["*", precision]
