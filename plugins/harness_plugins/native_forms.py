"""The forms of multi-head latent attention: expanded (`mha`), absorbed (`mqa`), and whichever takes fewer FLOPs."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from harness.contract.attention import AttentionCall, Form
from harness.contract.cache import expand
from harness.contract.operators import FP8_FUSED
from harness.contract.span import Span

EXPANDED_BYTES = 128 << 20
"""Keys and values are expanded for as many heads at a time as fit in this."""

ABSORBED_BYTES = 64 << 20
"""Queries are absorbed, and keys selected, for as many tokens at a time as fit in this."""


class Mha(Form):
    """Expand latents to keys and values of every head (arXiv 2405.04434, section 2.1).

    With a selection the keys are still all expanded and the others masked: V3.2's path for short prefill.
    """

    name = "mha"

    def attend(self, call: AttentionCall) -> Tensor:
        """See `Form.attend`."""
        q_BTHQ = torch.cat([call.q_nope_BTHN, call.q_rope_BTHR], -1)
        chosen = _select_for_all(call)
        stored = call.keys.expanded(call.span.end)
        if stored is not None:
            return _attend_expanded(call, q_BTHQ, *stored, chosen)
        rows_BSL = call.keys.latent_rows(call.span.end)
        outputs = []
        for heads in _head_groups(call, rows_BSL):
            k_BHSQ, v_BHSV = expand(rows_BSL, call.key_up_HNC[heads], call.value_up_HVC[heads])
            outputs.append(_attend_expanded(call, q_BTHQ[:, :, heads], k_BHSQ, v_BHSV, chosen))
        return torch.cat(outputs, 2)


class Mqa(Form):
    """Absorb the two halves of kv_b_proj into queries and outputs; all heads attend to the latents themselves.

    q . (W_uk c) = (W_uk^T q) . c, and sum_s p_s (W_uv c_s) = W_uv (sum_s p_s c_s) (arXiv 2405.04434, section 2.1.2).
    """

    name = "mqa"

    def attend(self, call: AttentionCall) -> Tensor:
        """See `Form.attend`."""
        rows = SharedRows(call)
        outputs = []
        for columns, span in call.span.chunks(_query_chunk(call)):
            out_BTHC = rows.attend(_absorb(call, columns), span, call.select(columns, span))
            outputs.append(torch.einsum("bthc,hvc->bthv", out_BTHC, call.value_up_HVC))
        return torch.cat(outputs, 1)


class SharedRows:
    """The rows that all heads share: read packed by the kernels that can, unpacked at most once for the others."""

    def __init__(self, call: AttentionCall) -> None:
        self.call = call
        self.packed_BSP = call.keys.packed_rows(call.span.end)

    @cached_property
    def unpacked(self) -> Tensor:
        """Every row of the cache, [B, S, C + R]."""
        return self.call.keys.latent_rows(self.call.span.end)

    def attend(self, q_BTHL: Tensor, span: Span, selected_BTK: Tensor | None) -> Tensor:
        """[B, T, H, C], to the selected rows, or to all that the span lets the queries see."""
        ops, rest = self.call.ops, (self.call.scale, self.call.key_up_HNC.shape[-1])
        dense, sparse = (ops.fused.get(name) if self.packed_BSP is not None else None for name in FP8_FUSED)
        if selected_BTK is None and dense is not None:
            return dense(q_BTHL, self.packed_BSP, span, *rest)
        if selected_BTK is None:
            return ops.mqa_attention(q_BTHL, self.unpacked, span, *rest)
        if sparse is not None:
            return sparse(q_BTHL, self.packed_BSP, selected_BTK, *rest)
        return ops.mqa_sparse_attention(q_BTHL, self.unpacked, selected_BTK, *rest)


class Auto(Form):
    """Per call, the form that takes fewer floating-point operations.

    With T new tokens, P query-key pairs (P_sel of them selected) and S keys per sequence, in multiply-adds:

    - `mha` = C H (N + V) S + H (N + R + V) P: expanding, then attending to every visible key;
    - `mqa` = C H (N + V) T + H (2 C + R) P_sel: absorbing queries and outputs, then attending to latents.

    With V3's dimensions and every key selected the first is smaller from T = 171 new tokens on, whatever S.
    """

    name = "auto"

    def __init__(self) -> None:
        self.mha, self.mqa = Mha(), Mqa()

    def attend(self, call: AttentionCall) -> Tensor:
        """See `Form.attend`."""
        form: Form = self.mha if mha_cost(call) < mqa_cost(call) else self.mqa
        return form.attend(call)


def mha_cost(call: AttentionCall) -> int:
    """Multiply-adds of the expanded form."""
    heads, nope, latent = call.key_up_HNC.shape
    value, rope = call.value_up_HVC.shape[1], call.q_rope_BTHR.shape[-1]
    pairs = sum(_pairs(start, end, None) for start, end in zip(call.span.starts, call.span.ends, strict=True))
    return heads * (latent * (nope + value) * sum(call.span.ends) + (nope + rope + value) * pairs)


def mqa_cost(call: AttentionCall) -> int:
    """Multiply-adds of the absorbed form."""
    heads, nope, latent = call.key_up_HNC.shape
    value, rope = call.value_up_HVC.shape[1], call.q_rope_BTHR.shape[-1]
    ranges = list(zip(call.span.starts, call.span.ends, strict=True))
    pairs = sum(_pairs(start, end, call.keys_per_query) for start, end in ranges)
    tokens = sum(end - start for start, end in ranges)
    return heads * (latent * (nope + value) * tokens + (2 * latent + rope) * pairs)


def _pairs(start: int, end: int, limit: int | None) -> int:
    """Query-key pairs of the queries at positions start to end - 1, at most `limit` keys each."""
    if limit is None or end <= limit:
        return (end * (end + 1) - start * (start + 1)) // 2
    below = max(start, min(end, limit))
    return _pairs(start, below, None) + (end - below) * limit


def _absorb(call: AttentionCall, columns: slice) -> Tensor:
    q_BTHC = torch.einsum("bthn,hnc->bthc", call.q_nope_BTHN[:, columns], call.key_up_HNC)
    return torch.cat([q_BTHC, call.q_rope_BTHR[:, columns]], -1)


def _query_chunk(call: AttentionCall) -> int:
    """Queries at a time: absorbed queries of V3's shape take 288 KiB each in FP32."""
    per_query = call.q_nope_BTHN.shape[0] * call.q_nope_BTHN.shape[2] * call.absorbed_width
    return max(1, ABSORBED_BYTES // (per_query * call.q_nope_BTHN.element_size()))


def _head_groups(call: AttentionCall, rows_BSL: Tensor) -> list[slice]:
    heads, nope, _ = call.key_up_HNC.shape
    width = nope + call.q_rope_BTHR.shape[-1] + call.value_up_HVC.shape[1]
    per_head = rows_BSL.shape[0] * rows_BSL.shape[1] * width * rows_BSL.element_size()
    size = max(1, EXPANDED_BYTES // per_head)
    return [slice(first, min(first + size, heads)) for first in range(0, heads, size)]


def _select_for_all(call: AttentionCall) -> list[tuple[slice, Span, Tensor | None]]:
    """The selection of every chunk of queries, made once for all groups of heads; int32 to halve its memory."""
    chosen = []
    for columns, span in call.span.chunks(_query_chunk(call)):
        selected_BTK = call.select(columns, span)
        chosen.append((columns, span, None if selected_BTK is None else selected_BTK.int()))
    return chosen


def _attend_expanded(
    call: AttentionCall, q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, chosen: list[tuple[slice, Span, Tensor | None]]
) -> Tensor:
    attend = call.ops.mha_attention
    return torch.cat(
        [
            attend(q_BTHQ[:, columns], k_BHSQ, v_BHSV, span, call.scale, selected_BTK)
            for columns, span, selected_BTK in chosen
        ],
        1,
    )


MHA, MQA, AUTO = Mha(), Mqa(), Auto()
