"""DSA's index scores and top-k selection in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.contract.operators import accumulation_dtype
from harness.contract.span import Span

SCORE_BYTES = 4 << 20
"""Largest tensor of per-head scores at one time; larger ones leave the processor's cache between two passes."""


def index_scores(q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Span) -> Tensor:
    """See `IndexScores`. A few queries at a time, so that the per-head scores never exist for a whole sequence."""
    wide = accumulation_dtype(q_BTGI.dtype)
    rows = []
    for b in range(span.batch):
        q_TGI, weights_TG, k_SI = q_BTGI[b].to(wide), weights_BTG[b].to(wide), k_BSI[b, : span.end].to(wide)
        chunk = max(1, SCORE_BYTES // (q_TGI.shape[1] * span.end * q_TGI.element_size()))
        pieces = zip(q_TGI.split(chunk), weights_TG.split(chunk), strict=True)
        rows.append(torch.cat([_scores(q, weights, k_SI) for q, weights in pieces]))
    return torch.stack(rows).masked_fill(~span.visible(k_BSI.device), -torch.inf)


def _scores(q_TGI: Tensor, weights_TG: Tensor, k_SI: Tensor) -> Tensor:
    per_head_TGS = torch.matmul(q_TGI.flatten(0, 1), k_SI.T).relu_().unflatten(0, q_TGI.shape[:2])
    return torch.matmul(weights_TG[:, None], per_head_TGS).squeeze(1)


def select_topk(scores_BTS: Tensor, count: int) -> Tensor:
    """See `SelectTopk`. `torch.topk` gives the smallest selected score; ties with it are filled from the left."""
    smallest_BT1 = scores_BTS.topk(count, sorted=False).values.amin(-1, keepdim=True)
    above_BTS = scores_BTS > smallest_BT1
    tied_BTS = (scores_BTS == smallest_BT1) & (scores_BTS > -torch.inf)
    room_BT1 = count - above_BTS.sum(-1, keepdim=True)
    chosen_BTS = above_BTS | (tied_BTS & (tied_BTS.cumsum(-1) <= room_BT1))
    return _positions(chosen_BTS, count)


def _positions(chosen_BTS: Tensor, count: int) -> Tensor:
    """Column numbers of the chosen entries of every row, ascending, then -1."""
    rank_BTS = chosen_BTS.cumsum(-1)
    columns_S = torch.arange(chosen_BTS.shape[-1], device=chosen_BTS.device).expand_as(rank_BTS)
    slots_BTS = torch.where(chosen_BTS, rank_BTS - 1, count)
    filled = torch.full((*chosen_BTS.shape[:-1], count + 1), -1, dtype=torch.int64, device=chosen_BTS.device)
    return filled.scatter_(-1, slots_BTS, columns_S)[..., :count]
