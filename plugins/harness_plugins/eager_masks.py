"""Masks in plain PyTorch, written only where there is something to hide."""

from __future__ import annotations

import torch
from torch import Tensor


def hide_future(scores: Tensor, start: int) -> Tensor:
    """Set scores [..., T, S] of keys behind their query to -inf, in place; query t stands at position start + t.

    Every query sees the keys up to the first one's position, so only the columns after it are touched.
    """
    queries, keys = scores.shape[-2:]
    first = start + 1
    if keys > first:
        hidden_TS = torch.ones(queries, keys - first, dtype=torch.bool, device=scores.device).triu()
        scores[..., first:].masked_fill_(hidden_TS, -torch.inf)
    return scores


def not_selected(selected_BTK: Tensor, keys: int) -> Tensor:
    """bool [B, T, S], False at selected positions; -1 (and what lies beyond the keys) hits a spare column."""
    index_BTK = torch.where((selected_BTK < 0) | (selected_BTK >= keys), keys, selected_BTK).long()
    mask_BTS = torch.ones(*selected_BTK.shape[:2], keys + 1, dtype=torch.bool, device=selected_BTK.device)
    return mask_BTS.scatter_(-1, index_BTK, False)[..., :keys]
