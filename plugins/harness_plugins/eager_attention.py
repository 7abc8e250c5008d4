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

SCORE_BYTES = 16 << 20
"""Largest score tensor of a chunk: small enough to stay in a processor's last-level cache."""

GATHER_BYTES = 32 << 20
"""Largest tensor of gathered rows."""


def mha_attention(
    q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
) -> Tensor:
    """See `MhaAttention`. The selection becomes a mask per chunk of queries."""

    def attend(group: slice, columns: slice, part: Span) -> Tensor:
        q_BHTQ = q_BTHQ[group, columns].transpose(1, 2)
        scores_BHTS = torch.matmul(q_BHTQ * scale, k_BHSQ[group, :, : part.end].transpose(-1, -2))
        chosen_BTK = None if selected_BTK is None else selected_BTK[group, columns]
        probabilities_BHTS = _softmax(_hide(scores_BHTS, part, chosen_BTK))
        return torch.matmul(probabilities_BHTS, v_BHSV[group, :, : part.end]).transpose(1, 2)

    return _by_chunks(attend, span, heads=q_BTHQ.shape[2], itemsize=q_BTHQ.element_size())


def mqa_attention(q_BTHL: Tensor, rows_BSL: Tensor, span: Span, scale: float, value_width: int) -> Tensor:
    """See `MqaAttention`. All heads of all queries of a chunk are one matrix, since they share their keys."""
    heads = q_BTHL.shape[2]

    def attend(group: slice, columns: slice, part: Span) -> Tensor:
        rows_BSL_seen = rows_BSL[group, : part.end]
        q_BML = (q_BTHL[group, columns] * scale).flatten(1, 2)
        scores_BMS = torch.matmul(q_BML, rows_BSL_seen.transpose(-1, -2))
        scores_BTHS = scores_BMS.unflatten(1, (part.width, heads))
        probabilities_BTHS = _softmax(_hide(scores_BTHS.transpose(1, 2), part, None).transpose(1, 2))
        out_BMC = torch.matmul(probabilities_BTHS.flatten(1, 2), rows_BSL_seen[..., :value_width])
        return out_BMC.unflatten(1, (part.width, heads))

    return _by_chunks(attend, span, heads=heads, itemsize=q_BTHL.element_size())


def mqa_sparse_attention(
    q_BTHL: Tensor, rows_BSL: Tensor, selected_BTK: Tensor, scale: float, value_width: int
) -> Tensor:
    """See `MqaSparseAttention`. Gathers the selected rows of a few queries at a time."""
    row_bytes = selected_BTK.shape[-1] * rows_BSL.shape[-1] * rows_BSL.element_size()
    chunk = max(1, GATHER_BYTES // row_bytes)
    outputs = [
        torch.cat([_attend_selected(q, rows_SL, selected, scale, value_width) for q, selected in pieces])
        for rows_SL, pieces in (
            (rows_BSL[b], zip(q_BTHL[b].split(chunk), selected_BTK[b].split(chunk), strict=True))
            for b in range(q_BTHL.shape[0])
        )
    ]
    return torch.stack(outputs)


def _attend_selected(q_THL: Tensor, rows_SL: Tensor, selected_TK: Tensor, scale: float, value_width: int) -> Tensor:
    none_TK = selected_TK < 0
    rows_TKL = rows_SL[selected_TK.clamp(min=0)]
    scores_THK = torch.matmul(q_THL * scale, rows_TKL.transpose(-1, -2))
    scores_THK = scores_THK.masked_fill(none_TK[:, None], -torch.inf)
    return torch.matmul(_softmax(scores_THK), rows_TKL[..., :value_width])


def _by_chunks(attend: Callable[[slice, slice, Span], Tensor], span: Span, heads: int, itemsize: int) -> Tensor:
    """Run `attend(sequences, columns, span)` over groups of sequences and chunks of queries; join the outputs."""
    groups = []
    for group, part in span.sequences():
        per_query = part.batch * heads * part.end * max(itemsize, 4)
        chunk = max(1, SCORE_BYTES // per_query)
        groups.append(torch.cat([attend(group, columns, few) for columns, few in part.chunks(chunk)], 1))
    return torch.cat(groups)


def _hide(scores_BHTS: Tensor, span: Span, selected_BTK: Tensor | None) -> Tensor:
    """Set the scores of keys that a query does not see, or did not select, to -inf."""
    if selected_BTK is not None:
        return scores_BHTS.masked_fill(_not_selected(selected_BTK, scores_BHTS.shape[-1])[:, None], -torch.inf)
    if span.width == 1:
        return scores_BHTS
    # Every query sees the keys before the first one's position: only the last columns have anything to hide.
    first = span.starts[0] + 1
    hidden_BTS = ~span.visible(scores_BHTS.device)[:, :, first:]
    scores_BHTS[..., first:].masked_fill_(hidden_BTS[:, None], -torch.inf)
    return scores_BHTS


def _not_selected(selected_BTK: Tensor, keys: int) -> Tensor:
    """bool [B, T, S], False at selected positions; entries of -1 (and padding beyond the keys) hit a spare column."""
    spare = keys
    index_BTK = torch.where((selected_BTK < 0) | (selected_BTK >= keys), spare, selected_BTK)
    mask_BTS = torch.ones(*selected_BTK.shape[:2], keys + 1, dtype=torch.bool, device=selected_BTK.device)
    return mask_BTS.scatter_(-1, index_BTK.long(), False)[..., :keys]


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, -1, dtype=accumulation_dtype(scores.dtype)).to(scores.dtype)
