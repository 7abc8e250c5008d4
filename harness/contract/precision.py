"""The precision axis: the number format of the matrix products, as a layer class and a dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.contract.operators import accumulation_dtype


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

    def linear(self, in_features: int, out_features: int, bias: bool = False) -> nn.Module:
        """An empty layer on the meta device; its parameters take the checkpoint's names `weight` and `bias`."""
        return nn.Linear(in_features, out_features, bias, device="meta", dtype=self.dtype)

    def dense_weight(self, layer: nn.Module) -> Tensor:
        """The weight of a layer made by `linear` as a plain matrix in `dtype`, for algebra that absorbs it."""
        weight: Tensor = layer.weight  # type: ignore[assignment]
        return weight
