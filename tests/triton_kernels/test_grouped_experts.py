"""Routed experts: blocks of rows that are full, partly filled and left over, widths that are no multiple of a block."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.triton_kernels.grouped_experts import configure, grouped_experts, weighted_sum
from harness_plugins.triton_kernels.launch import interpreted
from torch import Tensor

from harness.check.operator_calls import Call, Draw
from tests.triton_kernels.against_eager import DTYPES, require_equal_to_eager


def routing(draw: Draw, tokens: int, chosen: int, experts: int) -> Tensor:
    return torch.rand(tokens, experts, generator=draw.generator).argsort(-1)[:, :chosen]


def call(what: str, experts_MA: Tensor, experts: int = 5, width: int = 40, hidden: int = 24) -> Call:
    draw = Draw(experts)
    weights = torch.rand(experts_MA.shape, generator=draw.generator).double()
    gate_up, down = 0.3 * draw.normal(experts, 2 * hidden, width), 0.3 * draw.normal(experts, width, hidden)
    return Call(what, (draw.view(len(experts_MA), width), experts_MA, weights, gate_up, down))


@DTYPES
def test_routings(dtype: str, device: str) -> None:
    draw = Draw(1)
    calls = [
        call("several blocks of an expert", routing(draw, 23, 3, 5)),
        call("all tokens to one expert", torch.full((19, 1), 3)),
        call("one token", routing(draw, 1, 2, 5)),
        call("no token", torch.zeros(0, 2, dtype=torch.long)),
        call("experts that nobody chose", routing(draw, 6, 2, 3) + 2),
        call("one expert", torch.zeros(3, 1, dtype=torch.long), experts=1),
    ]
    require_equal_to_eager("grouped_experts", calls, dtype, device)


@pytest.mark.skipif(interpreted(), reason="takes minutes when interpreted")
@DTYPES
@pytest.mark.parametrize("tokens", [3, 400, 3000])
def test_every_size_of_block(tokens: int, dtype: str, device: str) -> None:
    calls = [call("many", routing(Draw(6), tokens, 4, 16), 16, 512, 256)]
    require_equal_to_eager("grouped_experts", calls, dtype, device)


@DTYPES
@pytest.mark.parametrize(("width", "hidden"), [(16, 16), (33, 32), (48, 7), (5, 50)])
def test_widths(width: int, hidden: int, dtype: str, device: str) -> None:
    calls = [call("widths", routing(Draw(2), 9, 2, 3), 3, width, hidden)]
    require_equal_to_eager("grouped_experts", calls, dtype, device)


@DTYPES
def test_weights_that_are_views(dtype: str, device: str) -> None:
    """Stacks of experts cut out of larger ones."""
    x, experts, weights, _, _ = call("", routing(Draw(3), 9, 2, 3), 3, 20, 12).arguments
    draw = Draw(4)
    gate_up, down = 0.3 * draw.view(6, 24, 20)[::2], 0.3 * draw.view(3, 25, 12)[:, :20]
    require_equal_to_eager("grouped_experts", [Call("views", (x, experts, weights, gate_up, down))], dtype, device)


def test_a_token_does_not_depend_on_the_tokens_beside_it(device: str) -> None:
    """Bit by bit on a device; interpreted, a block is a product of NumPy's, whose last bits hang on a row's place."""
    rounding = 1e-5 if interpreted() else 0.0
    x, experts, weights, gate_up, down = call("", routing(Draw(5), 20, 3, 5)).arguments
    x, weights, gate_up, down = (each.float().to(device) for each in (x, weights, gate_up, down))
    whole = grouped_experts(x, experts.to(device), weights, gate_up, down)
    for m in (0, 13, 19):
        alone = grouped_experts(x[m : m + 1], experts[m : m + 1].to(device), weights[m : m + 1], gate_up, down)
        torch.testing.assert_close(alone[0], whole[m], rtol=rounding, atol=rounding)


def test_the_sum_is_in_the_order_of_a_token_s_experts(device: str) -> None:
    """1e8 + 1 - 1e8 is 0 in FP32 when added from the left, and 1 from the right."""
    slots = torch.tensor([[1e8], [1.0], [-1e8], [1e8], [-1e8], [1.0]], device=device)
    assert weighted_sum(slots, torch.ones(2, 3, device=device)).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("capability", [None, (8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("slots", [1, 8, 4096, 1 << 18])
def test_both_products_take_the_same_blocks_of_rows(slots: int, wide: bool, capability: tuple[int, int] | None) -> None:
    config = configure(slots, 256, wide, capability)
    assert config.gate_up.rows == config.down.rows
