"""Attention straight from packed rows, dense and selected: what the reference gives on the unpacked ones."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.triton_kernels.fp8_mqa_attention import fp8_mqa_attention
from harness_plugins.triton_kernels.fp8_mqa_sparse_attention import fp8_mqa_sparse_attention
from torch import Tensor

from harness.check.operator_calls import Draw
from harness.contract.operators import reference_operators
from harness.contract.span import Span
from tests.fp8.numbers import calc_diff
from tests.triton_kernels.against_eager import poisoned_memory

EAGER = reference_operators()

ALLOWED = {torch.float32: 1e-10, torch.bfloat16: 1e-5}
"""calc_diff against FP64 over the same unpacked rows: FP32's rounding; BF16's of the softmax's weights and result."""

FP32, BF16 = torch.float32, torch.bfloat16


def inputs(span: Span, heads: int, latent: int, rope: int, seed: int = 21) -> tuple[Tensor, Tensor]:
    """Queries as a view, and packed rows of which those that were never written are 255 throughout."""
    draw = Draw(seed)
    q = draw.view(span.batch, span.width, heads, latent + rope)
    rows = draw.keys(span, span.batch, span.end + 3, latent + rope, dim=1)
    packed = EAGER.pack_latents(rows.float(), latent, True)
    packed[rows.isnan().any(-1)] = 255
    return q, packed


@pytest.mark.parametrize(
    ("span", "dtype", "heads", "latent", "rope"),
    [
        (Span((3, 0, 18), (8, 2, 20), 5), FP32, 3, 20, 6),
        (Span((299, 2), (300, 3), 1), BF16, 3, 20, 6),
        (Span((0, 5), (0, 7), 2), BF16, 2, 140, 4),
        (Span((30,), (32,), 2), FP32, 17, 8, 4),
    ],
    ids=["ragged chunk", "ragged split decode", "an empty sequence and a partial group", "heads over two blocks"],
)
def test_dense(span: Span, dtype: torch.dtype, heads: int, latent: int, rope: int, device: str) -> None:
    q, packed = inputs(span, heads, latent, rope)
    q = q.to(dtype)
    with poisoned_memory():
        given = fp8_mqa_attention(q.to(device), packed.to(device), span, 0.2, latent).cpu()
    unpacked = EAGER.unpack_latents(packed, latent, rope, dtype).double()
    wanted = EAGER.mqa_attention(q.double(), unpacked, span, 0.2, latent)
    real = span.positions("cpu") < torch.tensor(span.ends)[:, None]
    assert given.dtype == dtype
    assert given.isfinite().all()
    assert calc_diff(given[real], wanted[real]) < ALLOWED[dtype]


@pytest.mark.parametrize(
    ("span", "dtype", "count", "none_first"),
    [
        (Span((3, 0), (6, 2), 3), BF16, 17, True),
        (Span((299,), (300,), 1), FP32, 290, False),
        (Span((0,), (1,), 1), FP32, 1, False),
    ],
    ids=["none first", "split", "one"],
)
def test_selected(span: Span, dtype: torch.dtype, count: int, none_first: bool, device: str) -> None:
    q, packed = inputs(span, 3, 20, 6)
    q, selected = q.to(dtype), Draw(22).selection(span, count, none_first)
    with poisoned_memory():
        given = fp8_mqa_sparse_attention(q.to(device), packed.to(device), selected.to(device), 0.2, 20).cpu()
    unpacked = EAGER.unpack_latents(packed, 20, 6, dtype).double()
    wanted = EAGER.mqa_sparse_attention(q.double(), unpacked, selected, 0.2, 20)
    assert given.isfinite().all()
    assert calc_diff(given, wanted) < ALLOWED[dtype]


@pytest.mark.parametrize("offset", [0, 1])
def test_a_part_of_a_larger_cache(offset: int, device: str) -> None:
    """Sequences further apart than they are long; rows that begin at an odd byte."""
    span = Span((5, 5), (6, 6), 1)
    q, packed = inputs(span, 2, 20, 6)
    q, packed = q.float().to(device), packed.to(device)
    cache = torch.full((3, 12, packed.shape[2] + offset), 255, dtype=torch.uint8, device=device)
    view = cache[1:, : packed.shape[1], offset:]
    view.copy_(packed)
    assert torch.equal(
        fp8_mqa_attention(q, view, span, 0.2, 20),
        fp8_mqa_attention(q, packed, span, 0.2, 20),
    )


def test_nothing_asked_nothing_given(device: str) -> None:
    q = torch.zeros(1, 0, 2, 24, device=device)
    packed = torch.zeros(1, 3, 20 + 4 + 8, dtype=torch.uint8, device=device)
    selected = torch.zeros(1, 0, 2, dtype=torch.int64, device=device)
    assert fp8_mqa_sparse_attention(q, packed, selected, 1.0, 20).shape == (1, 0, 2, 20)
