"""The block-scaled product in Triton against the reference, over ragged edges of every tile."""

import pytest
import torch
from harness_plugins.triton_kernels import fp8_gemm as module

from harness.contract.fp8 import blocks
from harness.contract.operators import reference_operators
from tests.fp8.numbers import calc_diff

EAGER = reference_operators()

ORDER = 1e-11
"""calc_diff of FP32 sums in another order: (a few times 2^-24 relative)^2 / 2, with room."""

BF16 = 3e-7
"""Two correct roundings to BF16 of sums that differ in order: rarely one step apart."""


def operands(
    rows: int, columns: int, depth: int, device: str, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x and weight in E4M3 with scales over several orders of magnitude, as they could not come from one scale."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(size, depth, generator=generator) * 100 for size in (rows, columns))
    scales = torch.rand(rows, blocks(depth), generator=generator) + 0.5
    weight_scales = torch.rand(blocks(columns), blocks(depth), generator=generator) * 4 + 0.1
    x, weight = (values.clamp(-448, 448).to(torch.float8_e4m3fn).to(device) for values in (x, weight))
    return x, scales.to(device), weight, weight_scales.to(device)


@pytest.mark.parametrize("rows", [1, 16, 17, 33])
@pytest.mark.parametrize(("columns", "depth"), [(150, 300), (7, 33), (129, 256)])
def test_equals_the_reference(rows: int, columns: int, depth: int, device: str) -> None:
    given = operands(rows, columns, depth, device)
    out = module.fp8_gemm(*given, torch.float32)
    assert out.shape == (rows, columns)
    assert out.dtype == torch.float32
    assert calc_diff(out, EAGER.fp8_gemm(*given, torch.float32)) < ORDER


@pytest.mark.parametrize("rows", [3, 40])
def test_rounds_to_the_dtype_asked_for(rows: int, device: str) -> None:
    given = operands(rows, 150, 300, device)
    out = module.fp8_gemm(*given, torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert calc_diff(out, EAGER.fp8_gemm(*given, torch.bfloat16)) < BF16


@pytest.mark.parametrize("rows", [4, 40])
def test_views_with_nan_around_them_and_outputs_that_held_nan(rows: int, device: str) -> None:
    """What lies beside a row or behind the last one is not read, and every output is written."""
    x, scales, weight, weight_scales = operands(rows, 70, 200, device)

    def surrounded(tensor: torch.Tensor) -> torch.Tensor:
        wide = torch.full((tensor.shape[0] + 40, tensor.shape[1] + 130), float("nan"), device=device).to(tensor.dtype)
        wide[20 : -40 + 20, :-130] = tensor
        return wide[20 : -40 + 20, :-130]

    views = [surrounded(tensor) for tensor in (x, scales, weight, weight_scales)]
    out = module.fp8_gemm(*views, torch.float32)
    assert calc_diff(out, EAGER.fp8_gemm(x, scales, weight, weight_scales, torch.float32)) < ORDER


def test_a_row_of_nan_spoils_no_other_row(device: str) -> None:
    """Also not the row that the other half of a tile has at its place."""
    x, scales, weight, weight_scales = operands(20, 40, 200, device)
    clean = module.fp8_gemm(x, scales, weight, weight_scales, torch.float32)
    for spoilt in (3, 19):
        poisoned = scales.clone()
        poisoned[spoilt] = float("nan")
        out = module.fp8_gemm(x, poisoned, weight, weight_scales, torch.float32)
        assert out[spoilt].isnan().all()
        rest = torch.arange(20) != spoilt
        assert torch.equal(out[rest], clean[rest])


def test_no_rows(device: str) -> None:
    x, scales, weight, weight_scales = operands(2, 70, 200, device)
    assert module.fp8_gemm(x[:0], scales[:0], weight, weight_scales, torch.bfloat16).shape == (0, 70)


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_configurations_keep_their_promises(capability: tuple[int, int]) -> None:
    """A tile has one weight scale, and no split is empty or shorter than it is worth."""
    for rows in (1, 16, 17, 64, 65, 128, 1024, 8192):
        for columns, depth in (*module.SHAPES, (64, 32), (129280, 7168)):
            config = module.configure(rows, columns, depth, capability)
            assert 128 % config.columns == 0
            assert config.splits == 1 or blocks(depth) // config.splits >= 4
