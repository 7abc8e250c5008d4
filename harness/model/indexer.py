"""DSA's lightning indexer: a small attention whose scores choose the keys of the large one.

DeepSeek-V3.2-Exp report, section 2.1. Unlike in the attention proper the rotated part stands first, and V3.2
rotates it half-split (GLM interleaved); the released demo's Hadamard transform and FP8 rounding are left out, as
in transformers: the transform does not change dot products and the rounding is a storage format's business.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.contract.attention import SelectorSource
from harness.contract.config import ModelConfig
from harness.model.layers import Parts, wide_parameter

K_NORM_EPS = 1e-6


class Indexer(nn.Module):
    """Projections of the indexer; implements `harness.contract.attention.LightningIndexer`."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.heads, self.width = config.index_n_heads, config.index_head_dim
        self.rope, self.interleaved = config.qk_rope_head_dim, config.indexer_rope_interleave
        linear = parts.linear
        self.wq_b = linear(config.q_lora_rank or config.hidden_size, self.heads * self.width)
        self.wk = linear(config.hidden_size, self.width)
        self.k_norm = KeyNorm(self.width, parts)
        self.weights_proj = WideLinear(config.hidden_size, self.heads, parts)

    def queries(self, source: SelectorSource) -> Tensor:
        """See `LightningIndexer.queries`."""
        latent_BTP = source.hidden_BTD if source.q_latent_BTP is None else source.q_latent_BTP
        q_BTGI = self.wq_b(latent_BTP).unflatten(-1, (self.heads, self.width))
        return self._rotate(q_BTGI, source.cos_BTr[:, :, None], source.sin_BTr[:, :, None], source)

    def keys(self, source: SelectorSource) -> Tensor:
        """See `LightningIndexer.keys`."""
        return self._rotate(self.k_norm(self.wk(source.hidden_BTD)), source.cos_BTr, source.sin_BTr, source)

    def head_weights(self, source: SelectorSource) -> Tensor:
        """See `LightningIndexer.head_weights`; the projection stays in FP32."""
        return self.weights_proj(source.hidden_BTD) * (self.heads * self.width) ** -0.5

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor, source: SelectorSource) -> Tensor:
        rotated = source.ops.rotary(x[..., : self.rope], cos, sin, self.interleaved)
        return torch.cat([rotated, x[..., self.rope :]], -1)


class KeyNorm(nn.Module):
    """LayerNorm with weight and bias, computed in FP32."""

    def __init__(self, width: int, parts: Parts) -> None:
        super().__init__()
        self.weight = wide_parameter((width,), parts)
        self.bias = wide_parameter((width,), parts)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., I]."""
        return F.layer_norm(x.to(self.weight.dtype), x.shape[-1:], self.weight, self.bias, K_NORM_EPS).to(x.dtype)


class WideLinear(nn.Module):
    """A projection whose weight and result stay in FP32 in every precision."""

    def __init__(self, in_features: int, out_features: int, parts: Parts) -> None:
        super().__init__()
        self.weight = wide_parameter((out_features, in_features), parts)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] in any dtype -> [..., out] in the weight's."""
        return F.linear(x.to(self.weight.dtype), self.weight)
