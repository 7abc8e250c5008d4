"""Quantisation in Triton gives the bits of the reference."""

import pytest
import torch
import triton
import triton.language as tl
from harness_plugins.triton_kernels.e4m3 import encode, has_units
from harness_plugins.triton_kernels.launch import capability
from harness_plugins.triton_kernels.quantise import quantise

from harness.contract.operators import reference_operators
from tests.fp8.numbers import e4m3_numbers

EAGER = reference_operators()


def same_bits(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal as numbers, NaN where NaN; the sign of a NaN's bits is no part of it."""
    return given.dtype == wanted.dtype and torch.equal(given.double().nan_to_num(1e9), wanted.double().nan_to_num(1e9))


def assert_as_eager(x: torch.Tensor, group: int = 128) -> None:
    for power_of_two in (False, True):
        values, scales = quantise(x, group, power_of_two)
        wanted_values, wanted_scales = EAGER.quantise(x, group, power_of_two)
        assert values.shape == wanted_values.shape
        assert same_bits(values, wanted_values)
        assert same_bits(scales, wanted_scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "group"), [((5, 300), 128), ((2, 3, 40), 16), ((1, 7), 128), ((9, 33), 10)])
def test_bits_are_the_reference(shape: tuple[int, ...], group: int, dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 10.0 ** torch.randint(-4, 3, shape, generator=generator)
    assert_as_eager(x.to(device, dtype), group)


def test_every_number_and_every_tie(device: str) -> None:
    """E4M3's numbers, the middles between neighbours, and what lies right beside those, with a scale of one."""
    numbers = e4m3_numbers().float()
    middles = (numbers[1:] + numbers[:-1]) / 2
    beside = [torch.nextafter(middles, torch.full_like(middles, side)) for side in (-1e9, 1e9)]
    x = torch.cat([numbers, middles, *beside, torch.tensor([448.0, -0.0, 2.0**-40])])
    assert_as_eager(x[None].to(device), group=len(x))


@triton.jit
def _encode_all(x_ptr, codes_ptr, COUNT: tl.constexpr, UNITS: tl.constexpr):
    at = tl.arange(0, COUNT)
    tl.store(codes_ptr + at, encode(tl.load(x_ptr + at), UNITS))


def test_conversion_saturates_and_keeps_nan(device: str) -> None:
    """What no scaled value is, since scales are made of the largest one; hardware and integer arithmetic alike."""
    x = torch.tensor([449.0, 464.0, 480.0, 1e9, float("inf"), -1e30, float("nan"), 2.0**-10 * 0.999], device=device)
    for units in {False, has_units(capability(x))}:
        codes = torch.full((8,), 255, dtype=torch.uint8, device=device)
        _encode_all[(1,)](x, codes, COUNT=8, UNITS=units)
        values = codes.view(torch.float8_e4m3fn).float().cpu()
        assert values[:6].tolist() == [448.0] * 5 + [-448.0]
        assert values[6].isnan()
        assert values[7] == 0


def test_a_nan_spoils_its_own_group_alone(device: str) -> None:
    x = torch.randn(3, 256, device=device)
    x[1, 5], x[2, 200] = float("nan"), float("inf")
    assert_as_eager(x)


def test_strided_and_empty_input(device: str) -> None:
    x = torch.full((4, 6, 400), float("nan"), device=device)
    view = x[:, ::2, 30:170]
    view.copy_(torch.randn(view.shape))
    assert_as_eager(view)
    assert_as_eager(x[:0])
