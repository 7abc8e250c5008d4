"""What every layer is made of: the parts of a variant, norms and plain feed-forward networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.contract.attention import Form, Selector
from harness.contract.cache import CacheFormat
from harness.contract.config import ModelConfig
from harness.contract.operators import Operators
from harness.contract.precision import Precision


@dataclass(frozen=True)
class Parts:
    """The chosen option of every axis that the model definition has a seam for."""

    form: Form
    selector: Selector
    precision: Precision
    cache: CacheFormat
    ops: Operators

    def linear(self, in_features: int, out_features: int, bias: bool = False) -> nn.Module:
        """An empty layer of the precision, computing through the kernels (see `Precision.linear`)."""
        return self.precision.linear(in_features, out_features, bias, ops=self.ops)


def wide_parameter(shape: tuple[int, ...], parts: Parts) -> nn.Parameter:
    """An empty parameter on the meta device that stays in FP32 (FP64 in the oracle) in every precision."""
    return nn.Parameter(torch.empty(shape, dtype=parts.precision.wide, device="meta"))


class RmsNorm(nn.Module):
    """Root-mean-square norm with a learned weight, computed in FP32."""

    def __init__(self, width: int, eps: float, parts: Parts) -> None:
        super().__init__()
        self.weight = wide_parameter((width,), parts)
        self.eps = eps
        self.ops = parts.ops

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual)."""
        return self.ops.add_rms_norm(x, residual, self.weight, self.eps)


class Mlp(nn.Module):
    """SwiGLU feed-forward network, for dense layers and shared experts."""

    def __init__(self, config: ModelConfig, intermediate: int, parts: Parts) -> None:
        super().__init__()
        linear = parts.linear
        self.gate_proj = linear(config.hidden_size, intermediate)
        self.up_proj = linear(config.hidden_size, intermediate)
        self.down_proj = linear(intermediate, config.hidden_size)
        self.ops = parts.ops

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down_proj(self.ops.swiglu(self.gate_proj(x), self.up_proj(x)))
