"""Absorbed attention over packed FP8 rows in plain PyTorch: unpacks the rows that are seen, then attends."""

from __future__ import annotations

from torch import Tensor

from harness.contract.span import Span
from harness_plugins.eager_attention import attend_to_gathered, mqa_attention
from harness_plugins.eager_fp8_packing import unpack_latents


def fp8_mqa_attention(q_BTHL: Tensor, packed_BSP: Tensor, span: Span, scale: float, value_width: int) -> Tensor:
    """See `MqaAttention`, over rows as `PackLatents` packs them."""
    rope = q_BTHL.shape[-1] - value_width
    rows_BSL = unpack_latents(packed_BSP[:, : span.end], value_width, rope, q_BTHL.dtype)
    return mqa_attention(q_BTHL, rows_BSL, span, scale, value_width)


def fp8_mqa_sparse_attention(
    q_BTHL: Tensor, packed_BSP: Tensor, selected_BTK: Tensor, scale: float, value_width: int
) -> Tensor:
    """See `MqaSparseAttention`, over rows as `PackLatents` packs them: unpacks the gathered ones alone."""
    rope = q_BTHL.shape[-1] - value_width

    def unpack(packed: Tensor) -> Tensor:
        return unpack_latents(packed, value_width, rope, q_BTHL.dtype)

    return attend_to_gathered(unpack, q_BTHL, packed_BSP, selected_BTK, scale, value_width)
