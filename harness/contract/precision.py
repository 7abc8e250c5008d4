"""The precision axis: the number format of the matrix products, as layer classes and a dtype."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from harness.contract.fp8_tensors import BlockScaled
from harness.contract.operators import Operators, accumulation_dtype

StoredWeight: TypeAlias = Tensor | BlockScaled
"""A weight as a checkpoint has it: a plain tensor on the CPU, or an FP8 one with its scales."""


@runtime_checkable
class StoresWeight(Protocol):
    """A layer made by `Precision.linear` that keeps its weight in a format of its own."""

    def store(self, weight: StoredWeight, device: str) -> None:
        """Take the weight [out, in]. Raises UsageError for a stored format that the layer cannot keep."""


@runtime_checkable
class StoresExperts(Protocol):
    """A layer made by `Precision.experts` that keeps its stacks in a format of its own."""

    def store_expert(self, stack: str, expert: int, parts: Sequence[StoredWeight], device: str) -> None:
        """Take one expert's part of the stack `gate_up_proj` (gate [F, D], up [F, D]) or `down_proj` ([D, F])."""


@dataclass(frozen=True)
class Precision:
    """One option of the precision axis. Subclass it for formats with their own layer class, such as FP8.

    Norms, router, softmax and index logits stay in `wide` whatever the format (DeepSeek-V3 report, section 3.3.1).
    """

    name: str
    dtype: torch.dtype
    """Of activations, of plain weights and of unquantised cache fields."""

    @property
    def wide(self) -> torch.dtype:
        """Of everything that stays in FP32 (FP64 in the oracle): norms, router, head weights of the indexer."""
        return accumulation_dtype(self.dtype)

    def in_dtype(self, dtype: torch.dtype) -> Precision:
        """The same format with all that it does not quantise in `dtype`: for references that quantise alike."""
        return replace(self, dtype=dtype)

    @property
    def slots(self) -> Collection[str]:
        """FP8 slots of the operator table that its layers call (see `Operators.resolved`)."""
        return ()

    def linear(self, in_features: int, out_features: int, bias: bool = False, *, ops: Operators) -> nn.Module:
        """An empty layer on the meta device, [..., in] -> [..., out] through `ops` or by itself.

        Its parameters take the checkpoint's names `weight` and `bias`, unless it is a `StoresWeight`.
        """
        return nn.Linear(in_features, out_features, bias, device="meta", dtype=self.dtype)

    def experts(self, count: int, hidden: int, width: int, ops: Operators) -> nn.Module:
        """Empty routed experts on the meta device, called as `PlainExperts` is.

        Their parameters are called `gate_up_proj` and `down_proj`, unless it is a `StoresExperts`.
        """
        return PlainExperts(count, hidden, width, self.dtype, ops)

    def dense_weight(self, layer: nn.Module) -> Tensor:
        """The weight of a layer made by `linear` as a plain matrix in `dtype`, for algebra that absorbs it."""
        weight: Tensor = layer.weight  # type: ignore[assignment]
        return weight


class PlainExperts(nn.Module):
    """The routed experts of a layer, stacked for grouped products; gate rows stand before up rows."""

    def __init__(self, count: int, hidden: int, width: int, dtype: torch.dtype, ops: Operators) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * width, hidden, dtype=dtype, device="meta"))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, width, dtype=dtype, device="meta"))
        self.ops = ops

    def forward(self, x_MD: Tensor, experts_MA: Tensor, weights_MA: Tensor) -> Tensor:
        """[M, D] -> [M, D]: the outputs of every token's experts, weighted and summed."""
        return self.ops.grouped_experts(x_MD, experts_MA, weights_MA, self.gate_up_proj, self.down_proj)
