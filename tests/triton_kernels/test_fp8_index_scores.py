"""The FP8 indexer in Triton: packed keys as the reference packs them, and its scores."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.triton_kernels.fp8_index_scores import fp8_index_scores
from harness_plugins.triton_kernels.pack_index_keys import pack_index_keys

from harness.check.operator_calls import Draw
from harness.contract.operators import reference_operators
from harness.contract.span import Span
from tests.fp8.numbers import calc_diff
from tests.triton_kernels.against_eager import poisoned_memory

EAGER = reference_operators()

ORDER = 1e-11
"""calc_diff of FP32 sums in another order."""


@pytest.mark.parametrize("width", [4, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_keys_are_the_reference(width: int, dtype: torch.dtype, device: str) -> None:
    """Sixteenths of small size have exact sums in any order, so every bit must agree."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-60, 60, (2, 3, width + 5), generator=generator)[..., 2 : width + 2] / 16
    given = keys.to(device, dtype)
    with poisoned_memory():
        packed = pack_index_keys(given)
    assert torch.equal(packed, EAGER.pack_index_keys(given))


def test_rotation_keeps_dot_products(device: str) -> None:
    """What the transform and its scale are for: up to E4M3's rounding, products of packed keys are the keys'."""
    keys = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(1))
    keys[..., 3] *= 30  # an outlier that would cost the others their bits
    packed = pack_index_keys(keys.to(device)).cpu()
    back = packed[..., :64].view(torch.float8_e4m3fn).float() * packed[..., 64:].contiguous().view(torch.float32)
    assert calc_diff(back @ back.mT, keys @ keys.mT) < 1e-3


def test_a_width_that_is_no_power_of_two_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="24 wide; allowed: a power of two"):
        pack_index_keys(torch.zeros(1, 1, 24, device=device))


@pytest.mark.parametrize(
    ("span", "heads", "width"),
    [
        (Span((3, 0, 18), (8, 2, 20), 5), 3, 16),
        (Span((40, 2), (41, 3), 1), 16, 64),
        (Span((0,), (6,), 6), 20, 32),
        (Span((0, 5), (0, 7), 2), 2, 16),
    ],
    ids=["ragged chunk", "ragged decode", "whole", "an empty sequence"],
)
def test_scores(span: Span, heads: int, width: int, device: str) -> None:
    """-inf exactly where a query does not see a key, though what was never written is 255 throughout."""
    draw = Draw(31)
    q = draw.view(span.batch, span.width, heads, width).bfloat16()
    weights = draw.view(span.batch, span.width, heads).float()
    packed = torch.full((span.batch + 1, span.end + 3, width + 4), 255, dtype=torch.uint8)[1:, : span.end + 2]
    for b, end in enumerate(span.ends):
        packed[b, :end] = EAGER.pack_index_keys(draw.normal(1, end, width).float())[0]
    with poisoned_memory():
        given = fp8_index_scores(q.to(device), weights.to(device), packed.to(device), span).cpu()
    wanted = EAGER.fp8_index_scores(q, weights, packed, span)
    visible = span.visible("cpu")
    assert given.dtype == torch.float32
    assert torch.equal(given.isneginf(), ~visible)
    assert calc_diff(given[visible], wanted[visible]) < ORDER


def test_nothing_asked_nothing_given(device: str) -> None:
    q, weights = torch.zeros(1, 0, 2, 16, device=device), torch.zeros(1, 0, 2, device=device)
    packed = torch.zeros(1, 3, 20, dtype=torch.uint8, device=device)
    assert fp8_index_scores(q, weights, packed, Span((3,), (3,), 0)).shape == (1, 0, 3)
