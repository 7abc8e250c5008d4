"""Torch's own block-scaled product: how scales are laid out for it, and every reason why it cannot run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness_plugins import scaled_mm_product

from harness.contract import MachineFacts, Query
from harness.contract.fp8_tensors import quantise_blocks
from harness.contract.operators import reference_operators
from harness.contract.registry import Registry
from harness.model.presets import PRESETS

REGISTRY = Registry(entry_points=False)


def reasons(precision: str = "bf16", preset: str = "tiny-v32", **facts: Any) -> list[str]:
    variant = REGISTRY.variant({"engine": "native", "kernels": "scaled_mm", "precision": precision})
    here = MachineFacts("Linux", "x86_64", "cpu", 1, 2**33, **{"device": "cuda", **facts})
    return list(REGISTRY.option("kernels", "scaled_mm").unsupported(Query(variant, PRESETS[preset], here)))


def test_it_runs_on_hopper_with_a_new_torch() -> None:
    here: dict[str, Any] = {"compute_capability": (9, 0), "packages": {"torch": "2.11.0+cu130"}}
    assert not reasons(**here)
    assert not reasons("fp8", "v32-layer", **here)


def test_every_reason_against_it_is_given() -> None:
    given = reasons("fp8", compute_capability=(10, 0), packages={"torch": "2.9.1"})
    assert "10.0" in given[0]
    assert "2.9.1" in given[1]
    assert "hidden_size is 64" in given[2]
    assert "the device is cpu" in reasons(device="cpu")[0]
    assert "installed is none" in reasons(device="cpu")[1]


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_what_the_product_is_given_is_what_it_means(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library call is replaced by its definition, over the very layouts that it demands."""

    def definition(a: Any, b: Any, scale_a: Any, recipe_a: Any, scale_b: Any, recipe_b: Any, output_dtype: Any) -> Any:
        assert a.shape[0] % 4 == 0
        assert a.is_contiguous()
        assert b.t().is_contiguous()
        assert scale_a.t().is_contiguous()
        assert scale_b.t().is_contiguous()
        assert scale_b.shape[0] % 4 == 0
        k = scale_a.shape[1]
        left = a.double().unflatten(1, (k, 128)) * scale_a.double()[..., None]
        wide = scale_b[:k].double().repeat_interleave(128, 0).repeat_interleave(128, 1)
        return (left.flatten(1) @ (b.double() * wide[:, : b.shape[1]])).to(output_dtype)

    monkeypatch.setattr(scaled_mm_product.F, "scaled_mm", definition, raising=False)
    monkeypatch.setattr(scaled_mm_product.F, "ScalingType", _Recipes, raising=False)
    torch.manual_seed(0)
    eager = reference_operators()
    x, x_scales = eager.quantise(torch.randn(rows, 640), 128, False)
    weight = quantise_blocks(torch.randn(208, 640), False)
    given = scaled_mm_product.fp8_gemm(x, x_scales, weight.values, weight.scales, torch.float32)
    wanted = eager.fp8_gemm(x, x_scales, weight.values, weight.scales, torch.float64)
    assert given.shape == (rows, 208)
    torch.testing.assert_close(given.double(), wanted, rtol=1e-5, atol=1e-4)


class _Recipes:
    BlockWise1x128 = "1x128"
    BlockWise128x128 = "128x128"


def test_sizes_that_the_library_has_not_are_refused() -> None:
    e4m3, ones = torch.float8_e4m3fn, torch.ones(1, 1)
    for rows, columns in ((16, 64), (24, 128)):
        x, weight = torch.zeros(4, columns).to(e4m3), torch.zeros(rows, columns).to(e4m3)
        with pytest.raises(ValueError, match=f"not K {columns} and N {rows}"):
            scaled_mm_product.fp8_gemm(x, ones.expand(4, 1), weight, ones, torch.bfloat16)
    square = torch.zeros(16, 128).to(e4m3)
    with pytest.raises(ValueError, match="no FP64"):
        scaled_mm_product.fp8_gemm(square, torch.ones(16, 1), square, ones, torch.float64)
