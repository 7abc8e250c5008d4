"""What an indexer is trained from: its own scores, and the attention that it should predict.

DeepSeek-V3.2-Exp report, section 2.2: the loss of a layer is KL(p || softmax(I)), with p the attention probabilities
summed over heads and normalised, over all visible keys (dense warm-up) or over the selected ones (sparse stage). The
indexer's input is detached, so this loss trains the indexer alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.contract.cache import expand
from harness.contract.operators import accumulation_dtype
from harness.model.attention import Attention, Projected

SCORE_VALUES = 1 << 22
"""Attention scores held at one time."""


@dataclass(frozen=True)
class IndexerView:
    """One layer's indexer and its target, for whole fresh sequences: S = T."""

    scores_BTS: Tensor
    """FP32 index scores, -inf at unseen keys; differentiable in the indexer's parameters only."""
    target_BTS: Tensor
    """FP32, detached: attention probabilities averaged over heads; rows sum to 1."""
    selected_BTS: Tensor
    """bool: the keys that the target covers, selected or (without sparse) visible."""


def view_indexer(attention: Attention, projected: Projected, sparse: bool) -> IndexerView:
    """Index scores and attention of a layer over the tokens of a call.

    With `sparse` the attention is that over the `index_topk` selected keys, else over all visible ones. Needs
    memory in proportion to B T^2. Raises ValueError for a model without an indexer.
    """
    scores_BTS = _scores(attention, projected)
    visible_BTS = scores_BTS > -torch.inf
    covered_BTS = visible_BTS
    if sparse and scores_BTS.shape[-1] > attention.config.index_topk:
        chosen_BTK = attention.parts.ops.select_topk(scores_BTS.detach(), attention.config.index_topk)
        covered_BTS = torch.zeros_like(visible_BTS).scatter(-1, chosen_BTK.clamp(min=0), True) & visible_BTS
        # -1 (none) was sent to column 0: those rows see fewer keys than index_topk, so column 0 is selected anyway.
    return IndexerView(scores_BTS, _probabilities(attention, projected, covered_BTS), covered_BTS)


def _scores(attention: Attention, projected: Projected) -> Tensor:
    indexer = attention.indexer
    if indexer is None:
        raise ValueError("this model has no indexer")
    source = projected.source
    q_latent_BTP = None if source.q_latent_BTP is None else source.q_latent_BTP.detach()
    source = replace(source, hidden_BTD=source.hidden_BTD.detach(), q_latent_BTP=q_latent_BTP)
    queries_BTGI, weights_BTG = indexer.queries(source), indexer.head_weights(source)
    return source.ops.index_scores(queries_BTGI, weights_BTG, indexer.keys(source), source.span)


@torch.no_grad()
def _probabilities(attention: Attention, projected: Projected, covered_BTS: Tensor) -> Tensor:
    """Attention probabilities over the covered keys, averaged over heads: [B, T, S]."""
    k_BHSQ, _ = expand(projected.new_keys.rows_BTL, *attention.up_weights())
    q_BHTQ = (
        torch.cat([projected.q_nope_BTHN, projected.q_rope_BTHR], -1).transpose(1, 2) * attention.config.softmax_scale
    )
    chunk = max(1, SCORE_VALUES // k_BHSQ[..., 0].numel())
    means = []
    for first in range(0, q_BHTQ.shape[2], chunk):
        scores_BHTS = q_BHTQ[:, :, first : first + chunk] @ k_BHSQ.transpose(-1, -2)
        scores_BHTS = scores_BHTS.masked_fill(~covered_BTS[:, None, first : first + chunk], -torch.inf)
        means.append(scores_BHTS.softmax(-1, dtype=accumulation_dtype(scores_BHTS.dtype)).mean(1))
    return torch.cat(means, 1)
