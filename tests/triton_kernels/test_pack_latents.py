"""The FP8 KV cache in Triton: the bytes of the reference, and its numbers when read."""

import pytest
import torch
from harness_plugins.triton_kernels.pack_latents import pack_latents, unpack_latents

from harness.contract.operators import reference_operators

EAGER = reference_operators()

SHAPES = [(2, 3, 512, 64), (1, 5, 32, 8), (3, 2, 300, 6), (1, 1, 4, 2)]
"""B, T, C, R: V3's, narrower than a group, a partial group, the smallest."""


def rows(batch: int, tokens: int, width: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(batch, tokens, width, generator=generator) * 3).to(device)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "tokens", "latent", "rope"), SHAPES)
def test_bytes_and_numbers_are_the_reference(
    batch: int, tokens: int, latent: int, rope: int, dtype: torch.dtype, power_of_two: bool, device: str
) -> None:
    given = rows(batch, tokens, latent + rope, device).to(dtype)
    packed = pack_latents(given, latent, power_of_two)
    assert torch.equal(packed, EAGER.pack_latents(given, latent, power_of_two))
    for wanted in (torch.float32, torch.bfloat16):
        unpacked = unpack_latents(packed, latent, rope, wanted)
        assert unpacked.dtype == wanted
        assert torch.equal(unpacked, EAGER.unpack_latents(packed, latent, rope, wanted))


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_views_into_larger_tensors(offset: int, device: str) -> None:
    """A part of a cache, rows that begin at any byte, and a part of a projection's output with NaN around it."""
    wide = torch.full((4, 5, 100), float("nan"), device=device)
    given = wide[::2, 1:4, 7:47]
    given.copy_(rows(2, 3, 40, device))
    packed = pack_latents(given, 36, True)
    assert torch.equal(packed, EAGER.pack_latents(given, 36, True))
    cache = torch.full((3, 9, 48 + offset), 255, dtype=torch.uint8, device=device)
    view = cache[1:, 2:5, offset:]
    view.copy_(packed)
    assert torch.equal(unpack_latents(view, 36, 4, torch.bfloat16), EAGER.unpack_latents(packed, 36, 4, torch.bfloat16))


def test_a_nan_spoils_its_own_group_alone(device: str) -> None:
    given = rows(1, 2, 264, device)
    given[0, 1, 130] = float("nan")
    unpacked = unpack_latents(pack_latents(given, 256, False), 256, 8, torch.float32)
    wanted = torch.zeros(1, 2, 264, dtype=torch.bool)
    wanted[0, 1, 128:256] = True
    assert torch.equal(unpacked.isnan().cpu(), wanted)


def test_no_tokens(device: str) -> None:
    packed = pack_latents(rows(2, 1, 40, device)[:, :0], 32, False)
    assert packed.shape == (2, 0, 32 + 4 + 16)
    assert unpack_latents(packed, 32, 8, torch.bfloat16).shape == (2, 0, 40)
