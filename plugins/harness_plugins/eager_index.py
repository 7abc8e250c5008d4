"""DSA's index scores and top-k selection in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contract.operators import accumulation_dtype
from harness.contract.span import Span
from harness_plugins.eager_chunks import join_columns
from harness_plugins.eager_masks import hide_future

SCORE_BYTES = 2 << 20
"""Largest tensor of per-head scores at one time: it is passed over three times and should stay in a core's cache."""

KEY_BLOCK = 2048
"""Keys scored at one time, so that a block of them serves several queries even with many index heads."""


def index_scores(q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Span) -> Tensor:
    """See `IndexScores`. In blocks of queries and keys, so that per-head scores never exist for a whole sequence."""
    wide = accumulation_dtype(q_BTGI.dtype)
    scores = []
    for group, part in span.sequences():
        q, weights, end = q_BTGI[group].to(wide), weights_BTG[group].to(wide), part.end
        per_key = max(1, part.batch * q.shape[2] * q.element_size())
        block = min(KEY_BLOCK, max(256, SCORE_BYTES // per_key))
        blocks = [_block_scores(q, weights, k_BKI.to(wide)) for k_BKI in k_BSI[group, :end].split(block, 1)]
        scores_BTS = hide_future(torch.cat(blocks, -1), part.starts[0])
        scores.append(F.pad(scores_BTS, (0, span.end - end), value=-torch.inf) if end < span.end else scores_BTS)
    return torch.cat(scores) if len(scores) > 1 else scores[0]


def _block_scores(q_BTGI: Tensor, weights_BTG: Tensor, k_BKI: Tensor) -> Tensor:
    """[B, T, K]: a few queries at a time, all their heads in one product."""
    batch, keys, _ = k_BKI.shape
    heads = q_BTGI.shape[2]
    chunk = max(1, SCORE_BYTES // max(1, batch * heads * keys * k_BKI.element_size()))
    pieces = zip(q_BTGI.split(chunk, 1), weights_BTG.split(chunk, 1), strict=True)
    return join_columns((_few_scores(few_BTGI, few_BTG, k_BKI) for few_BTGI, few_BTG in pieces), q_BTGI.shape[1])


def _few_scores(q_BTGI: Tensor, weights_BTG: Tensor, k_BKI: Tensor) -> Tensor:
    per_head_BMK = torch.matmul(q_BTGI.flatten(1, 2), k_BKI.transpose(-1, -2)).relu_()
    return torch.matmul(weights_BTG[:, :, None], per_head_BMK.unflatten(1, q_BTGI.shape[1:3])).squeeze(2)


def select_topk(scores_BTS: Tensor, count: int) -> Tensor:
    """See `SelectTopk`. Only rows whose last selected score equals the first rejected one need the tie rule."""
    keys = scores_BTS.shape[-1]
    if count == keys:
        positions_S = torch.arange(keys, device=scores_BTS.device)
        return _ascending(positions_S.expand_as(scores_BTS), scores_BTS, keys)
    values, positions = _highest(scores_BTS, count + 1)
    selected_BTK = _ascending(positions[..., :count], values[..., :count], keys)
    tied_BT = (values[..., count - 1] == values[..., count]) & (values[..., count] > -torch.inf)
    if tied_BT.any():
        selected_BTK[tied_BT] = _fill_from_the_left(scores_BTS[tied_BT], values[tied_BT][:, count - 1 : count], count)
    return selected_BTK


def _highest(scores_BTS: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `scores.topk(count)`, in two rounds: the best groups of neighbours, then the best of their members.

    The `count` groups with the highest maxima hold `count` elements that no element outside them exceeds, so the
    values are the same; which of several equal elements is returned differs. About sqrt(S / count) neighbours a
    group make both rounds equally long.
    """
    keys = scores_BTS.shape[-1]
    size = int((keys / count) ** 0.5)
    if size < 2:
        return scores_BTS.topk(count)
    groups_BTXY = F.pad(scores_BTS, (0, -keys % size), value=-torch.inf).unflatten(-1, (-1, size))
    best_BTK = groups_BTXY.amax(-1).topk(count, sorted=False).indices
    members_BTKY = groups_BTXY.gather(-2, best_BTK[..., None].expand(-1, -1, -1, size))
    values, places = members_BTKY.flatten(-2).topk(count)
    return values, best_BTK.gather(-1, places // size) * size + places % size


def _ascending(positions: Tensor, values: Tensor, keys: int) -> Tensor:
    """Sorted positions, those with a value of -inf as -1 at the end."""
    ordered = torch.where(values > -torch.inf, positions, keys).sort(-1).values
    return ordered.masked_fill_(ordered == keys, -1)


def _fill_from_the_left(scores_XS: Tensor, smallest_X1: Tensor, count: int) -> Tensor:
    """All positions above the smallest selected score, then as many of those that equal it as there is room for."""
    above_XS, tied_XS = scores_XS > smallest_X1, scores_XS == smallest_X1
    room_X1 = count - above_XS.sum(-1, keepdim=True)
    chosen_XS = above_XS | (tied_XS & (tied_XS.cumsum(-1) <= room_X1))
    return chosen_XS.nonzero()[:, 1].view(-1, count)
