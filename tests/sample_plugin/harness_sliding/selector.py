"""Imported only in the worker that runs a variant with this selector."""

import torch

from harness.contract.attention import Selector


class Sliding(Selector):
    """Every query attends to itself and the keys just before it, as many as DSA would select."""

    name = "sliding"

    def keys_per_query(self, config):
        return config.index_topk

    def select(self, source, keys):
        """Key positions [B, T, K], -1 for none; None while nobody sees more than K keys."""
        span, count = source.span, source.config.index_topk
        if span.end <= count:
            return None
        device = source.hidden_BTD.device
        back_K = torch.arange(count - 1, -1, -1, device=device)
        positions_BT = span.positions(device).clamp(max=span.end - 1)  # padded queries may stand beyond the last key
        return (positions_BT[..., None] - back_K).clamp(min=-1)


SLIDING = Sliding()
