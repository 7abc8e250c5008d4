"""Joining what was computed a few queries at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def join_columns(pieces: Iterable[Tensor], width: int) -> Tensor:
    """Concatenate pieces [B, t, ...] to [B, width, ...].

    Outside of training each piece is copied to its place at once: many small results that live on between large
    passing ones keep the allocator from using freed memory again (1.7 GiB more at 32K tokens, by measurement).
    """
    if torch.is_grad_enabled():
        return torch.cat(list(pieces), 1)
    joined, done = None, 0
    for piece in pieces:
        if joined is None:
            joined = piece.new_empty(piece.shape[0], width, *piece.shape[2:])
        joined[:, done : done + piece.shape[1]] = piece
        done += piece.shape[1]
    assert joined is not None, "there is at least one piece, if an empty one"
    return joined
