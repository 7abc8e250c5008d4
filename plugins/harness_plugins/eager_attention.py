"""Attention in plain PyTorch: score, mask, softmax, weighted sum, in chunks of queries so that memory stays bounded.

Sequences of unlike length are computed one after the other, each over exactly its own keys: a ragged batch gives
what single sequences give, and rows that were never written are never read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.contract.operators import accumulation_dtype
from harness.contract.span import Span
from harness_plugins.eager_masks import hide_future, not_selected

SCORE_BYTES = 8 << 20
"""Largest score tensor of a chunk: it is passed over several times and should stay in a processor's cache."""

GATHER_BYTES = 4 << 20
"""Largest tensor of gathered rows, unless one query's are larger."""


def mha_attention(
    q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
) -> Tensor:
    """See `MhaAttention`. The selection becomes a mask per chunk of queries."""

    def attend(group: slice, columns: slice, part: Span) -> Tensor:
        q_BHTQ = (q_BTHQ[group, columns] * scale).transpose(1, 2)
        scores_BHTS = torch.matmul(q_BHTQ, k_BHSQ[group, :, : part.end].transpose(-1, -2))
        if selected_BTK is None:
            hide_future(scores_BHTS, part.starts[0])
        else:
            scores_BHTS.masked_fill_(not_selected(selected_BTK[group, columns], part.end)[:, None], -torch.inf)
        return torch.matmul(_softmax(scores_BHTS), v_BHSV[group, :, : part.end]).transpose(1, 2)

    return _by_chunks(attend, span, heads=q_BTHQ.shape[2], itemsize=q_BTHQ.element_size())


def mqa_attention(q_BTHL: Tensor, rows_BSL: Tensor, span: Span, scale: float, value_width: int) -> Tensor:
    """See `MqaAttention`. All heads of all queries of a chunk are one matrix, since they share their keys."""
    heads = q_BTHL.shape[2]

    def attend(group: slice, columns: slice, part: Span) -> Tensor:
        rows_BSL_seen = rows_BSL[group, : part.end]
        q_BML = (q_BTHL[group, columns] * scale).flatten(1, 2)
        scores_BMS = torch.matmul(q_BML, rows_BSL_seen.transpose(-1, -2))
        hide_future(scores_BMS.unflatten(1, (part.width, heads)).transpose(1, 2), part.starts[0])
        out_BMC = torch.matmul(_softmax(scores_BMS), rows_BSL_seen[..., :value_width])
        return out_BMC.unflatten(1, (part.width, heads))

    return _by_chunks(attend, span, heads=heads, itemsize=q_BTHL.element_size())


def mqa_sparse_attention(
    q_BTHL: Tensor, rows_BSL: Tensor, selected_BTK: Tensor, scale: float, value_width: int
) -> Tensor:
    """See `MqaSparseAttention`. Gathers the selected rows of a few queries at a time."""
    row_bytes = selected_BTK.shape[-1] * rows_BSL.shape[-1] * rows_BSL.element_size()
    chunk = max(1, GATHER_BYTES // row_bytes)
    outputs = []
    for q_THL, rows_SL, selected_TK in zip(q_BTHL, rows_BSL, selected_BTK, strict=True):
        pieces = zip(q_THL.split(chunk), selected_TK.split(chunk), strict=True)
        outputs.append(torch.cat([_attend_selected(q * scale, rows_SL, few, value_width) for q, few in pieces]))
    return torch.stack(outputs)


def _attend_selected(q_THL: Tensor, rows_SL: Tensor, selected_TK: Tensor, value_width: int) -> Tensor:
    rows_TKL = rows_SL.index_select(0, selected_TK.clamp(min=0).flatten()).unflatten(0, selected_TK.shape)
    scores_THK = torch.matmul(q_THL, rows_TKL.transpose(-1, -2))
    if selected_TK[..., -1].min() < 0:
        scores_THK.masked_fill_((selected_TK < 0)[:, None], -torch.inf)
    return torch.matmul(_softmax(scores_THK), rows_TKL[..., :value_width])


def _by_chunks(attend: Callable[[slice, slice, Span], Tensor], span: Span, heads: int, itemsize: int) -> Tensor:
    """Run `attend(sequences, columns, span)` over groups of sequences and chunks of queries; join the outputs."""
    groups = []
    for group, part in span.sequences():
        chunk = max(1, SCORE_BYTES // max(1, part.batch * heads * part.end * itemsize))
        groups.append(torch.cat([attend(group, columns, few) for columns, few in part.chunks(chunk)], 1))
    return groups[0] if len(groups) == 1 else torch.cat(groups)


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, -1, dtype=accumulation_dtype(scores.dtype)).to(scores.dtype)
