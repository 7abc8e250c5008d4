"""Rotary frequencies, plain or YaRN, computed as transformers computes them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.contract.config import ModelConfig, RopeConfig
from harness.contract.span import Span


class Rotary:
    """Cosines and sines of a model's rotary pairs at any position, r = qk_rope_head_dim / 2.

    Angles are FP32 products of position and FP32 frequency in every precision, as in transformers: at long context
    their rounding is part of what the model was trained with.
    """

    def __init__(self, config: ModelConfig, device: str) -> None:
        self.frequencies_r = inverse_frequencies(config.rope, config.qk_rope_head_dim).to(device)
        self.factor = attention_factor(config.rope)

    def tables(self, span: Span, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [B, T, r] in `dtype`, times YaRN's attention factor."""
        angles_BTr = span.positions(self.frequencies_r.device)[..., None].float() * self.frequencies_r
        return (angles_BTr.cos() * self.factor).to(dtype), (angles_BTr.sin() * self.factor).to(dtype)


def inverse_frequencies(rope: RopeConfig, width: int) -> Tensor:
    """FP32 [width / 2]: theta^(-2i/width), for YaRN blended with its factor-times slower self.

    YaRN (arXiv 2309.00071, section 3.2): pairs that turn more than beta_fast times over the original context keep
    their frequency, those that turn less than beta_slow times are slowed, a linear ramp between.
    """
    powers_r = rope.rope_theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if rope.rope_type == "default":
        return 1.0 / powers_r
    low, high = _ramp_ends(rope, width)
    ramp_r = ((torch.arange(width // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    kept_r = 1 - ramp_r
    return (1.0 / (rope.factor * powers_r)) * (1 - kept_r) + (1.0 / powers_r) * kept_r


def attention_factor(rope: RopeConfig) -> float:
    """What cos and sin are multiplied with: YaRN's mscale over its mscale_all_dim, or mscale of the factor alone.

    DeepSeek sets both to the same value, which gives 1; the softmax scale carries the correction instead
    (`RopeConfig.softmax_mscale`).
    """
    if rope.rope_type == "default":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _ramp_ends(rope: RopeConfig, width: int) -> tuple[float, float]:
    """First and last pair of the ramp; whole numbers unless `truncate` is false."""

    def pair_turning(turns: float) -> float:
        context = rope.original_max_position_embeddings
        return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    low, high = pair_turning(rope.beta_fast), pair_turning(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    return low, high if high != low else high + 0.001  # transformers' guard against an empty ramp
