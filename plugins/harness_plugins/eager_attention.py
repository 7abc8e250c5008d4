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
from harness_plugins.eager_chunks import join_columns
from harness_plugins.eager_masks import hide_future, not_selected

SCORE_BYTES = 4 << 20
"""Largest score tensor of a chunk: it is passed over several times and should stay in a processor's cache."""

QUERIES = 128
"""Queries that a product should have before it takes in a second head: flat matrices are multiplied slowly."""

GATHER_BYTES = 4 << 20
"""Largest tensor of gathered rows, unless one query's are larger."""


def mha_attention(
    q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
) -> Tensor:
    """See `MhaAttention`. The selection becomes a mask per chunk of queries; long chunks go head by head."""
    per_head = max(1, span.batch * min(span.width, QUERIES) * span.end * q_BTHQ.element_size())
    heads = max(1, SCORE_BYTES // per_head)
    pieces = zip(q_BTHQ.split(heads, 2), k_BHSQ.split(heads, 1), v_BHSV.split(heads, 1), strict=True)
    return torch.cat([_attend_heads(*piece, span, scale, selected_BTK) for piece in pieces], 2)


def _attend_heads(
    q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
) -> Tensor:
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
    """See `MqaSparseAttention`."""
    return attend_to_gathered(lambda rows: rows, q_BTHL, rows_BSL, selected_BTK, scale, value_width)


def attend_to_gathered(
    read: Callable[[Tensor], Tensor],
    q_BTHL: Tensor,
    stored_BSX: Tensor,
    selected_BTK: Tensor,
    scale: float,
    value_width: int,
) -> Tensor:
    """As `MqaSparseAttention` over the rows [..., L] that `read` makes of stored ones [..., X], after the gathering.

    Gathers the selected rows of a few queries at a time.
    """
    row_bytes = max(1, selected_BTK.shape[-1] * q_BTHL.shape[-1] * q_BTHL.element_size())
    sequences = max(1, GATHER_BYTES // (row_bytes * max(1, q_BTHL.shape[1])))
    queries = max(1, GATHER_BYTES // row_bytes)
    outputs = []
    for group in zip(q_BTHL.split(sequences), stored_BSX.split(sequences), selected_BTK.split(sequences), strict=True):
        pieces = zip(group[0].split(queries, 1), group[2].split(queries, 1), strict=True)
        gathered = ((q, few, read(_gather(group[1], few.clamp(min=0)))) for q, few in pieces)
        attended = (_attend_selected(q * scale, rows_BTKL, few, value_width) for q, few, rows_BTKL in gathered)
        outputs.append(join_columns(attended, q_BTHL.shape[1]))
    return torch.cat(outputs)


def _attend_selected(q_BTHL: Tensor, rows_BTKL: Tensor, selected_BTK: Tensor, value_width: int) -> Tensor:
    scores_BTHK = torch.matmul(q_BTHL, rows_BTKL.transpose(-1, -2))
    none_BTK = selected_BTK < 0
    if none_BTK.any():
        scores_BTHK.masked_fill_(none_BTK[:, :, None], -torch.inf)
    return torch.matmul(_softmax(scores_BTHK), rows_BTKL[..., :value_width])


def _gather(rows_BSL: Tensor, index_BTK: Tensor) -> Tensor:
    """[B, T, K, L]. One `index_select` per sequence: several times faster than indexing all at once."""
    gathered = [
        rows_SL.index_select(0, index_TK.flatten()) for rows_SL, index_TK in zip(rows_BSL, index_BTK, strict=True)
    ]
    joined = torch.stack(gathered) if len(gathered) > 1 else gathered[0][None]
    return joined.unflatten(1, index_BTK.shape[1:])


def _by_chunks(attend: Callable[[slice, slice, Span], Tensor], span: Span, heads: int, itemsize: int) -> Tensor:
    """Run `attend(sequences, columns, span)` over groups of sequences and chunks of queries; join the outputs."""
    groups = []
    for group, part in span.sequences():
        chunk = max(1, SCORE_BYTES // max(1, part.batch * heads * part.end * itemsize))
        groups.append(join_columns((attend(group, columns, few) for columns, few in part.chunks(chunk)), part.width))
    return groups[0] if len(groups) == 1 else torch.cat(groups)


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, -1, dtype=accumulation_dtype(scores.dtype)).to(scores.dtype)
