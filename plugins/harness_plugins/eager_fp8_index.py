"""DSA's index scores from packed FP8 keys in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from harness.contract.fp8_tensors import hadamard_rotated, quantise_groups
from harness.contract.operators import accumulation_dtype
from harness.contract.span import Span
from harness_plugins.eager_fp8_packing import unpack_index_keys
from harness_plugins.eager_index import index_scores


def fp8_index_scores(q_BTGI: Tensor, weights_BTG: Tensor, packed_BSP: Tensor, span: Span) -> Tensor:
    """See `Fp8IndexScores`: `index_scores` of the E4M3 values, scaled on both sides."""
    wide = accumulation_dtype(q_BTGI.dtype)
    q_values_BTGI, q_scales_BTG1 = quantise_groups(
        hadamard_rotated(q_BTGI.float()), q_BTGI.shape[-1], power_of_two=True
    )
    k_values_BSI, k_scales_BS = unpack_index_keys(packed_BSP[:, : span.end])
    weights_BTG = weights_BTG.to(wide) * q_scales_BTG1.squeeze(-1)
    scores_BTS = index_scores(q_values_BTGI.to(wide), weights_BTG, k_values_BSI.to(wide), span)
    hidden_BTS = scores_BTS.isneginf()  # where a row was never written, its scale may be anything
    return (scores_BTS * k_scales_BS[:, None]).masked_fill_(hidden_BTS, -float("inf"))
