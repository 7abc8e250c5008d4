"""Packed rows: the byte layout, what comes back, scores from packed keys, attention over packed rows."""

import struct

import pytest
import torch
from torch import Tensor

from harness.contract.fp8 import index_key_bytes, latent_row_bytes
from harness.contract.operators import reference_operators
from harness.contract.span import Span
from tests.fp8.numbers import calc_diff, nearest_e4m3

OPS = reference_operators()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_v3_rows_take_656_and_132_bytes() -> None:
    assert OPS.pack_latents(normal(1, 2, 576), 512, True).shape == (1, 2, latent_row_bytes(512, 64)) == (1, 2, 656)
    assert OPS.pack_index_keys(normal(1, 2, 128)).shape == (1, 2, index_key_bytes(128)) == (1, 2, 132)


def test_the_layout_is_latents_then_scales_then_rotary_key() -> None:
    row = normal(1, 1, 168, seed=4) * 3
    packed = bytes(OPS.pack_latents(row, 160, True)[0, 0].tolist())
    scales = struct.unpack("<2f", packed[160:168])
    assert scales == tuple(
        2.0 ** torch.tensor([float(part.abs().max()) / 448]).log2().ceil().item()
        for part in (row[..., :128], row[..., 128:160])
    )
    values = torch.tensor(list(packed[:160]), dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    wide = torch.tensor(scales, dtype=torch.float64).repeat_interleave(128)[:160]
    assert torch.equal(values, nearest_e4m3(row[0, 0, :160].double() / wide))
    rope = torch.tensor(list(packed[168:]), dtype=torch.uint8).view(torch.bfloat16)
    assert torch.equal(rope, row[0, 0, 160:].bfloat16())


@pytest.mark.parametrize(("latent", "rope"), [(512, 64), (160, 8), (12, 2)])
def test_rows_come_back_rounded(latent: int, rope: int) -> None:
    rows = normal(2, 5, latent + rope)
    packed = OPS.pack_latents(rows, latent, True)
    back = OPS.unpack_latents(packed, latent, rope, torch.float32)
    assert torch.equal(back[..., latent:], rows[..., latent:].bfloat16().float())
    assert calc_diff(back[..., :latent], rows[..., :latent]) < 6e-4
    exact = OPS.unpack_latents(packed, latent, rope, torch.bfloat16)  # 4 bits of mantissa times a power of two
    assert exact.dtype == torch.bfloat16
    assert torch.equal(exact.float(), back)
    assert torch.equal(OPS.pack_latents(back, latent, True), packed)  # packing what came back changes nothing


def test_rows_that_start_at_any_byte_are_read() -> None:
    packed = OPS.pack_latents(normal(2, 5, 168), 160, True)
    wide = torch.zeros(2, 7, packed.shape[-1] + 3, dtype=torch.uint8)
    wide[:, :5, 1:-2] = packed
    back = OPS.unpack_latents(wide[:, :5, 1:-2], 160, 8, torch.float32)
    assert torch.equal(back, OPS.unpack_latents(packed, 160, 8, torch.float32))


def unpacked_keys(packed: Tensor) -> Tensor:
    scales = packed[..., -4:].contiguous().view(torch.float32)
    return packed[..., :-4].contiguous().view(torch.float8_e4m3fn).float() * scales


def test_index_keys_are_rotated_by_an_orthonormal_transform() -> None:
    """Dot products of what comes back are those of the keys; an outlier is spread over all values."""
    keys = normal(1, 40, 128)
    back = unpacked_keys(OPS.pack_index_keys(keys))
    assert calc_diff(back @ back.mT, keys @ keys.mT) < 1e-3
    outlier = torch.zeros(1, 1, 128)
    outlier[..., 3] = 5.0
    spread = unpacked_keys(OPS.pack_index_keys(outlier))
    assert (spread.abs() == spread.abs()[0, 0, 0]).all()
    assert spread.min() < 0 < spread.max()
    assert torch.equal(spread[..., 0], spread[..., 0].abs())  # Sylvester's order: the first column is all ones


def plain_scores(q: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    return torch.einsum(
        "btg,btgs->bts", weights.double(), torch.einsum("btgi,bsi->btgs", q.double(), keys.double()).relu()
    )


def test_index_scores_are_those_of_the_quantised_vectors() -> None:
    span = Span((6, 0), (9, 3), 3)
    q, weights, keys = normal(2, 3, 16, 64), normal(2, 3, 16, seed=1), normal(2, 9, 64, seed=2)
    packed = OPS.pack_index_keys(keys)
    packed[1, 3:] = 255  # never written: NaN in values and scale
    given = OPS.fp8_index_scores(q, weights, packed, span)
    visible = span.visible("cpu")
    assert given.dtype == torch.float32
    assert torch.equal(given.isneginf(), ~visible)
    values, scales = OPS.quantise(q @ hadamard(64), 64, True)
    wanted = plain_scores(values.float() * scales, weights, unpacked_keys(packed).nan_to_num())
    assert calc_diff(given[visible], wanted[visible]) < 1e-11
    assert calc_diff(given[visible], plain_scores(q, weights, keys)[visible]) < 1e-3


def hadamard(size: int) -> Tensor:
    """By the parity of the bits that row and column number share."""
    rows = torch.tensor([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)])
    return rows.float() / size**0.5


@pytest.mark.parametrize("selected", [False, True])
def test_attention_over_packed_rows_is_that_over_the_unpacked_ones(selected: bool) -> None:
    span = Span((6, 0), (9, 3), 3)
    q, rows = normal(2, 3, 4, 168), normal(2, 9, 168, seed=1)
    packed = OPS.pack_latents(rows, 160, True)
    packed[1, 3:] = 255
    unpacked = OPS.unpack_latents(packed, 160, 8, torch.float32)
    if selected:
        chosen = torch.tensor([[[0, 5], [3, 7], [8, -1]], [[0, -1], [0, 1], [2, -1]]])
        given = OPS.fused["fp8_mqa_sparse_attention"](q, packed, chosen, 0.1, 160)
        wanted = OPS.mqa_sparse_attention(q, unpacked, chosen, 0.1, 160)
    else:
        given = OPS.fused["fp8_mqa_attention"](q, packed, span, 0.1, 160)
        wanted = OPS.mqa_attention(q, unpacked, span, 0.1, 160)
    assert torch.equal(given, wanted)
    assert given.isfinite().all()


def test_what_is_emulated_is_said() -> None:
    """Products alone, whatever the device; and only when a variant uses them."""
    assert not any("fp8" in slot for slot in OPS.resolved())
    for capability in (None, (9, 0)):
        resolved = OPS.resolved(("quantise", "fp8_gemm", "pack_latents"), capability)
        assert resolved["fp8_gemm"].endswith("fp8_gemm (emulated)")
        assert not resolved["quantise"].endswith(")")
        assert not resolved["pack_latents"].endswith(")")
        assert "fp8_index_scores" not in resolved
