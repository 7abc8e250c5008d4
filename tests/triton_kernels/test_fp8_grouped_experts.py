"""Routed experts with FP8 stacks in Triton against the reference's operators, one expert at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness_plugins.triton_kernels.fp8_grouped_experts import configure, fp8_grouped_experts
from torch import Tensor

from harness.check.operator_calls import Draw
from harness.contract.fp8 import BLOCK, blocks
from harness.contract.operators import reference_operators
from tests.fp8.numbers import calc_diff
from tests.triton_kernels.against_eager import poisoned_memory

EAGER = reference_operators()

ALLOWED = {torch.float32: 1e-6, torch.bfloat16: 1e-5}
"""calc_diff: sums in another order move few values of the second product's left operand to the next E4M3 number."""


def call(tokens: int, width: int, hidden: int, experts: int, chosen: int, seed: int = 41) -> list[Any]:
    """Arguments of the slot but the last; both stacks are views with more between two experts, the last one unused."""
    draw = Draw(seed)
    x = draw.view(tokens, width).float()
    chosen_MA = torch.stack([torch.randperm(experts - 1, generator=draw.generator)[:chosen] for _ in range(tokens)])
    gate_up = (draw.normal(experts, 2 * hidden + 3, width) * 50).clamp(-448, 448).to(torch.float8_e4m3fn)
    down = (draw.normal(experts, width + 1, hidden) * 50).clamp(-448, 448).to(torch.float8_e4m3fn)
    gate_up_scales = draw.normal(experts, 2, blocks(hidden), blocks(width)).abs().float() / 200 + 0.001
    down_scales = draw.normal(experts, blocks(width), blocks(hidden)).abs().float() / 200 + 0.001
    down_scales[-1] = gate_up_scales[-1] = float("nan")
    weights = draw.normal(tokens, chosen).abs().float()
    return [x, chosen_MA, weights, gate_up[:, : 2 * hidden], gate_up_scales, down[:, :width], down_scales]


def reference(arguments: list[Any], power_of_two: bool) -> Tensor:
    """A token at a time, SwiGLU rounded once, as `SwiGlu` wants it."""
    x_MD, experts_MA, weights_MA, gate_up, gate_up_scales, down, down_scales = arguments

    def project(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        return EAGER.fp8_gemm(*EAGER.quantise(x, BLOCK, power_of_two), weight, scales, x.dtype)

    def one(x: Tensor, expert: int) -> Tensor:
        gate, up = (project(x, w, s) for w, s in zip(gate_up[expert].chunk(2), gate_up_scales[expert], strict=True))
        hidden = (torch.nn.functional.silu(gate.float()) * up.float()).to(x.dtype)
        return project(hidden, down[expert], down_scales[expert]).float()

    outputs = [
        sum(weight * one(x[None], int(expert)) for expert, weight in zip(chosen, weights, strict=True))
        for x, chosen, weights in zip(x_MD, experts_MA, weights_MA, strict=True)
    ]
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("tokens", "width", "hidden", "dtype", "power_of_two"),
    [
        (3, 40, 24, torch.float32, False),
        (2, 136, 132, torch.bfloat16, True),
        (18, 32, 16, torch.bfloat16, False),
    ],
    ids=["small", "partial blocks", "several blocks of one expert"],
)
def test_equals_the_reference(
    tokens: int, width: int, hidden: int, dtype: torch.dtype, power_of_two: bool, device: str
) -> None:
    """Also: no NaN of an unused expert's scales, nor of fresh memory, and bitwise the same result again."""
    x, *rest = call(tokens, width, hidden, experts=3, chosen=2)
    x = x.to(dtype)
    given = [argument.to(device) for argument in (x, *rest)]
    with poisoned_memory():
        out = fp8_grouped_experts(*given, power_of_two)
        again = fp8_grouped_experts(*given, power_of_two)
    assert out.dtype == dtype
    assert torch.equal(out, again)
    assert calc_diff(out.cpu(), reference([x, *rest], power_of_two)) < ALLOWED[dtype]


def test_a_token_of_nan_spoils_no_other(device: str) -> None:
    x, *rest = (argument.to(device) for argument in call(3, 32, 16, experts=3, chosen=2))
    clean = fp8_grouped_experts(x, *rest, False)
    x = x.clone()
    x[1] = float("nan")
    out = fp8_grouped_experts(x, *rest, False)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])


def test_no_tokens(device: str) -> None:
    x, *rest = (argument.to(device) for argument in call(1, 32, 16, experts=3, chosen=2))
    assert fp8_grouped_experts(x[:0], rest[0][:0], rest[1][:0], *rest[2:], False).shape == (0, 32)


def test_blocks_grow_with_the_rows_of_an_expert() -> None:
    assert configure(8, 256, (9, 0)).rows == 16
    assert configure(8 * 4096, 256, (9, 0)).rows == 64
