"""Routed experts in plain PyTorch: tokens sorted by expert, one pair of matrix products per expert that is hit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness_plugins.eager_elementwise import swiglu


def grouped_experts(
    x_MD: Tensor, experts_MA: Tensor, weights_MA: Tensor, gate_up_EXD: Tensor, down_EDF: Tensor
) -> Tensor:
    """See `GroupedExperts`. The weighted sum runs in the order of a token's experts, so it does not depend on the
    batch that the token came in.
    """
    slots = experts_MA.flatten()
    order = slots.argsort(stable=True)
    counts = torch.bincount(slots, minlength=gate_up_EXD.shape[0]).tolist()
    sorted_xD = x_MD[order // experts_MA.shape[1]]
    outputs = [
        _expert(rows_xD, gate_up_EXD[expert], down_EDF[expert])
        for expert, rows_xD in enumerate(sorted_xD.split(counts))
        if len(rows_xD)
    ]
    nothing_xD = x_MD.new_empty(0, down_EDF.shape[1])  # a call without tokens hits no expert
    out_MAD = torch.cat([nothing_xD, *outputs])[order.argsort()].unflatten(0, experts_MA.shape)
    return torch.matmul(weights_MA[:, None].to(out_MAD.dtype), out_MAD).squeeze(1)


def _expert(x_xD: Tensor, gate_up_XD: Tensor, down_DF: Tensor) -> Tensor:
    gate, up = F.linear(x_xD, gate_up_XD).chunk(2, -1)
    return F.linear(swiglu(gate, up), down_DF)
