"""Routed experts in plain PyTorch: tokens sorted by expert, one pair of matrix products per expert that is hit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from harness_plugins.eager_elementwise import swiglu


def grouped_experts(
    x_MD: Tensor, experts_MA: Tensor, weights_MA: Tensor, gate_up_EXD: Tensor, down_EDF: Tensor
) -> Tensor:
    """See `GroupedExperts`."""

    def one(expert: int, x_xD: Tensor) -> Tensor:
        gate, up = F.linear(x_xD, gate_up_EXD[expert]).chunk(2, -1)
        return F.linear(swiglu(gate, up), down_EDF[expert])

    return by_expert(one, x_MD, experts_MA, weights_MA, gate_up_EXD.shape[0])


def by_expert(
    one: Callable[[int, Tensor], Tensor], x_MD: Tensor, experts_MA: Tensor, weights_MA: Tensor, count: int
) -> Tensor:
    """[M, D]: `one(expert, x [x, D])` of every expert that is hit, weighted and summed per token.

    The weighted sum runs in the order of a token's experts, so it does not depend on the batch that the token came in.
    """
    slots = experts_MA.flatten()
    order = slots.argsort(stable=True)
    counts = torch.bincount(slots, minlength=count).tolist()
    sorted_xD = x_MD[order // experts_MA.shape[1]]
    outputs = [one(expert, rows_xD) for expert, rows_xD in enumerate(sorted_xD.split(counts)) if len(rows_xD)]
    nothing_xD = x_MD.new_empty(0, x_MD.shape[1])  # a call without tokens hits no expert
    out_MAD = torch.cat([nothing_xD, *outputs])[order.argsort()].unflatten(0, experts_MA.shape)
    return torch.matmul(weights_MA[:, None].to(out_MAD.dtype), out_MAD).squeeze(1)
