"""The block-scaled product and the experts made of it, against a plain reading of their documentation in FP64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contract.operators import reference_operators
from tests.fp8.numbers import calc_diff

OPS = reference_operators()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantised_weight(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """By loops over blocks of 128 x 128, as plainly as possible."""
    rows, columns = weight_NK.shape
    values = torch.empty_like(weight_NK, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-rows // 128), -(-columns // 128))
    for n in range(scales.shape[0]):
        for k in range(scales.shape[1]):
            block = (slice(128 * n, 128 * n + 128), slice(128 * k, 128 * k + 128))
            scales[n, k] = weight_NK[block].abs().max() / 448
            values[block] = (weight_NK[block] / scales[n, k]).to(torch.float8_e4m3fn)
    return values, scales


def dequantised(values: Tensor, scales: Tensor, rows_per_scale: int) -> Tensor:
    rows, columns = values.shape
    spread = scales.double().repeat_interleave(rows_per_scale, 0)[:rows]
    return values.double() * spread.repeat_interleave(128, 1)[:, :columns]


@pytest.mark.parametrize(("m", "n", "k"), [(5, 256, 384), (3, 130, 200), (1, 7, 64), (0, 128, 128)])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_the_product_is_that_of_the_dequantised_operands(m: int, n: int, k: int, power_of_two: bool) -> None:
    x, weight = normal(m, k), normal(n, k, seed=1)
    x_values, x_scales = OPS.quantise(x, 128, power_of_two)
    w_values, w_scales = quantised_weight(weight)
    wanted = dequantised(x_values, x_scales, 1) @ dequantised(w_values, w_scales, 128).T
    for dtype, allowed in ((torch.float64, 1e-13), (torch.float32, 1e-11), (torch.bfloat16, 1e-5)):
        given = OPS.fp8_gemm(x_values, x_scales, w_values, w_scales, dtype)
        assert given.dtype == dtype
        assert given.shape == (m, n)
        if m:
            assert calc_diff(given, wanted) <= allowed


def test_the_product_is_near_the_unquantised_one() -> None:
    x, weight = normal(64, 2048), normal(256, 2048, seed=1)
    values, scales = OPS.quantise(x, 128, False)
    given = OPS.fp8_gemm(values, scales, *quantised_weight(weight), torch.bfloat16)
    assert 1e-4 < calc_diff(given, x.double() @ weight.double().T) <= 1e-3


@pytest.mark.parametrize("scales", ["x", "weight"])
def test_a_dropped_scale_is_far_from_it(scales: str) -> None:
    """The bounds above would notice a product that forgets one of its scales."""
    x, weight = normal(8, 256) * torch.tensor([1.0, 3.0]).repeat_interleave(128), normal(256, 256, seed=1)
    x_values, x_scales = OPS.quantise(x, 128, False)
    w_values, w_scales = quantised_weight(weight * torch.tensor([1.0, 5.0]).repeat_interleave(128))
    whole = OPS.fp8_gemm(x_values, x_scales, w_values, w_scales, torch.float32)
    if scales == "x":
        without = OPS.fp8_gemm(x_values, x_scales.mean() * torch.ones_like(x_scales), w_values, w_scales, torch.float32)
    else:
        without = OPS.fp8_gemm(x_values, x_scales, w_values, w_scales.mean() * torch.ones_like(w_scales), torch.float32)
    assert calc_diff(without, whole) > 1e-3


@pytest.mark.parametrize("width", [128, 72, 200])
def test_experts_are_their_two_products(width: int) -> None:
    """With and without a last partial block; experts that nobody chose may hold anything."""
    tokens, hidden, count, power_of_two = 6, 256, 5, False
    x, chosen = normal(tokens, hidden), torch.rand(tokens, count - 1).argsort(-1)[:, :2]
    weights = torch.rand(tokens, 2)
    gate_up, down = normal(count, 2 * width, hidden, seed=2) / 16, normal(count, hidden, width, seed=3) / 10
    pairs = [[quantised_weight(half) for half in stack.chunk(2)] for stack in gate_up]
    gate_up_values = torch.stack([torch.cat([half[0] for half in pair]) for pair in pairs])
    gate_up_scales = torch.stack([torch.stack([half[1] for half in pair]) for pair in pairs])
    down_pairs = [quantised_weight(stack) for stack in down]
    down_values, down_scales = (torch.stack(list(part)) for part in zip(*down_pairs, strict=True))
    gate_up_scales[4], down_scales[4] = float("nan"), float("nan")
    given = OPS.fp8_grouped_experts(
        x, chosen, weights, gate_up_values, gate_up_scales, down_values, down_scales, power_of_two
    )

    def project(row_K: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        quantised = OPS.quantise(row_K[None], 128, power_of_two)
        return OPS.fp8_gemm(*quantised, values, scales, torch.float32)[0]

    wanted = torch.zeros(tokens, hidden)
    for token in range(tokens):
        for place in range(2):
            expert = int(chosen[token, place])
            gate, up = (project(x[token], *half) for half in pairs[expert])
            wanted[token] += weights[token, place] * project(F.silu(gate) * up, *down_pairs[expert])
    assert calc_diff(given, wanted) < 1e-11


def test_experts_of_no_token() -> None:
    stacks = (
        torch.zeros(3, 64, 128).to(torch.float8_e4m3fn),
        torch.ones(3, 2, 1, 1),
        torch.zeros(3, 128, 32).to(torch.float8_e4m3fn),
        torch.ones(3, 1, 1),
    )
    none = torch.zeros(0, 2, dtype=torch.int64)
    assert OPS.fp8_grouped_experts(normal(0, 128), none, torch.zeros(0, 2), *stacks, True).shape == (0, 128)
