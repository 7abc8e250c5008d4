"""Multi-token prediction: layers after the last one that say what comes after the next token.

DeepSeek-V3, arXiv 2412.19437, section 2.2. Built only when asked for: a model that produces a token at a time neither
loads nor runs them. Their tensors lie where the released checkpoints have them, in `model.layers` from number
`num_hidden_layers` on; embedding and output head are the main model's, and copies of them on disk are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from harness.contract.cache import LayerCache
from harness.contract.config import ModelConfig
from harness.contract.span import Span
from harness.model.attention import Positions
from harness.model.layers import Parts, RmsNorm
from harness.model.transformer import CausalLm, Layer, Observer


class Mtp(Layer):
    """One prediction layer: a decoder layer with its own entrance and last norm.

    Its entrance joins embedding and hidden state in the released checkpoints' order, embedding first; equation 21 of
    the paper writes the hidden state first. The hidden state is the one behind the main model's last norm, as in
    SGLang, vLLM and transformers (the paper does not say).
    """

    def __init__(self, config: ModelConfig, index: int, parts: Parts) -> None:
        super().__init__(config, index, parts)
        self.enorm = RmsNorm(config.hidden_size, config.rms_norm_eps, parts)
        self.hnorm = RmsNorm(config.hidden_size, config.rms_norm_eps, parts)
        # A plain layer in every precision, as the head is.
        sizes = (2 * config.hidden_size, config.hidden_size)
        self.eh_proj = nn.Linear(*sizes, bias=False, device="meta", dtype=parts.precision.dtype)
        self.shared_head = SharedHead(config, parts)

    def predict(
        self,
        hidden_BTD: Tensor,
        embedded_BTD: Tensor,
        positions: Positions,
        cache: LayerCache | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Normed hidden states [B, T, D] for the output head, and for the prediction layer after this one.

        `hidden_BTD` are those of the main model (or of the prediction layer before) at `positions`, `embedded_BTD` the
        embeddings of the tokens that follow the last ones that they know.
        """
        joined_BTE = torch.cat([self.enorm(embedded_BTD), self.hnorm(hidden_BTD)], -1)
        return self.shared_head.norm(self(self.eh_proj(joined_BTE), positions, cache, observer))


class SharedHead(nn.Module):
    """The norm before the output head; the head itself is the main model's."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps, parts)


def add_mtp(model: CausalLm) -> None:
    """Give an empty model the prediction layers that its config names."""
    model.model.layers.extend(Mtp(model.config, number, model.parts) for number in model.config.mtp_numbers())


def mtp_layers(model: CausalLm) -> list[Mtp]:
    """The model's prediction layers, first depth first; empty when it was built without."""
    return [cast(Mtp, layer) for layer in model.model.layers[model.config.num_hidden_layers :]]


def look_ahead(
    model: CausalLm, hidden_BTD: Tensor, tokens_BT: Tensor, observer: Observer | None = None
) -> Iterator[Tensor]:
    """Logits [B, T - k, vocab] of every depth k = 1, 2 ... over whole fresh sequences, differentiable.

    `hidden_BTD` is what `model.hidden` makes of `tokens_BT`. Row t of depth k has read the tokens up to t + k and
    predicts token t + k + 1; the main model's logits, depth 0, predict token t + 1 (equations 21 to 23).
    """
    for depth, layer in enumerate(mtp_layers(model), 1):
        embedded_BTD = model.model.embed_tokens(tokens_BT[:, depth:])
        span = Span.fresh(*embedded_BTD.shape[:2])
        positions = Positions(span, *model.rotary.tables(span, model.parts.precision.wide))
        hidden_BTD = layer.predict(hidden_BTD[:, :-1], embedded_BTD, positions, observer=observer)
        yield model.head(hidden_BTD)
