"""Quantisation to E4M3: the nearest number, the declared scale, no bias, nothing leaks between groups."""

import pytest
import torch

from harness.contract.operators import reference_operators
from tests.fp8.numbers import nearest_e4m3

OPS = reference_operators()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("power_of_two", [False, True])
def test_every_value_is_the_nearest_e4m3_number_of_the_scaled_one(power_of_two: bool) -> None:
    x = normal(40, 300) * 10.0 ** torch.arange(-3, 2).repeat(8)[:, None]
    values, scales = OPS.quantise(x, 128, power_of_two)
    wide = scales.repeat_interleave(128, -1)[:, :300]
    assert torch.equal(values.double().flatten(), nearest_e4m3((x / wide).double().flatten()))


def test_the_scale_maps_the_largest_magnitude_of_a_group_to_the_largest_number() -> None:
    x = normal(7, 300)
    values, scales = OPS.quantise(x, 128, False)
    assert values.dtype == torch.float8_e4m3fn
    assert scales.dtype == torch.float32
    assert values.shape == (7, 300)
    assert scales.shape == (7, 3)
    tiles = [x[:, :128], x[:, 128:256], x[:, 256:]]
    assert torch.equal(scales, torch.stack([tile.abs().amax(1) / 448 for tile in tiles], 1))
    assert all((tile.float().abs().amax(1) == 448).all() for tile in values.split(128, 1))


def test_scales_of_powers_of_two_are_exact_and_never_too_small() -> None:
    amax = torch.tensor([448.0, 448.0001, 447.9, 224.0, 1.75, 1e-3, 3.0e4, 2.0**-30 * 448])
    _, scales = OPS.quantise(amax[:, None], 128, True)
    _, plain = OPS.quantise(amax[:, None], 128, False)
    mantissa, _ = torch.frexp(scales)
    assert (mantissa == 0.5).all()
    assert ((plain <= scales) & (scales < 2 * plain)).all()
    assert scales[0] == 1.0
    assert scales[1] == 2.0
    assert scales[2] == 1.0
    assert scales[3] == 0.5


def test_zeros_have_a_scale_and_stay_zeros() -> None:
    values, scales = OPS.quantise(torch.zeros(2, 130), 128, False)
    assert (values.float() == 0).all()
    assert torch.equal(scales, torch.full((2, 2), 1e-4) / 448)


def test_the_conversion_saturates() -> None:
    """In FP32 amax / (amax / 448) may come out above 448; E4M3 has no infinity to overflow to, but a NaN."""
    x = normal(4096, 1).abs() * 1e3 + 1e-2
    values, _ = OPS.quantise(x, 128, False)
    assert (values.float() == 448).all()


@pytest.mark.parametrize("power_of_two", [False, True])
def test_rounding_has_no_bias(power_of_two: bool) -> None:
    """The mean error of a million values lies within four times its standard error."""
    x = normal(2000, 512, seed=3)
    values, scales = OPS.quantise(x, 128, power_of_two)
    back = (values.double().unflatten(-1, (-1, 128)) * scales.double()[..., None]).flatten(-2)
    assert_unbiased((back - x.double()).flatten())


def test_rounding_has_no_bias_towards_zero() -> None:
    """Magnitudes spread evenly over a power of two: as much is lost as is gained, and as often."""
    x = torch.rand(4000, 256, generator=torch.Generator().manual_seed(3)) * 64 + 64
    x[:, ::128] = 448  # makes the scale 1
    values, scales = OPS.quantise(x, 128, False)
    assert (scales == 1).all()
    error = (values.double() - x.double())[:, 1:128].flatten()
    assert_unbiased(error)
    assert abs(float((error < 0).double().mean()) - 0.5) < 4 * 0.5 / len(error) ** 0.5


def assert_unbiased(error: torch.Tensor) -> None:
    assert float(error.std()) > 0
    assert abs(float(error.mean())) < 4 * float(error.std()) / len(error) ** 0.5


def test_a_nan_spoils_its_own_group_alone() -> None:
    x = normal(3, 256)
    clean, clean_scales = OPS.quantise(x, 128, True)
    x[1, 5] = float("nan")
    values, scales = OPS.quantise(x, 128, True)
    assert values[1, :128].float().isnan().all()
    assert scales[1, 0].isnan()
    rest = torch.ones(3, 256, dtype=torch.bool)
    rest[1, :128] = False
    assert torch.equal(values.float()[rest], clean.float()[rest])
    assert torch.equal(scales[[0, 2]], clean_scales[[0, 2]])
    assert scales[1, 1] == clean_scales[1, 1]


def test_strided_and_empty_input() -> None:
    x = normal(6, 200)
    strided = torch.stack([x, -x], 1).flatten(0, 1)[::2, 30:170]
    values, scales = OPS.quantise(strided, 128, False)
    again, its_scales = OPS.quantise(strided.contiguous(), 128, False)
    assert torch.equal(values.float(), again.float())
    assert torch.equal(scales, its_scales)
    values, scales = OPS.quantise(x[:0], 128, False)
    assert values.shape == (0, 200)
    assert scales.shape == (0, 2)
