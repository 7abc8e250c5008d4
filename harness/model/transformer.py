"""The model: DeepSeek-V2, V3, V3.2 and GLM's DSA models, written once. Parameter names are Hugging Face's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.contract.cache import LayerCache
from harness.contract.config import ModelConfig
from harness.contract.span import Span
from harness.model.attention import Attention, Positions, Projected
from harness.model.layers import Mlp, Parts, RmsNorm
from harness.model.moe import Moe, Routing
from harness.model.rotary import Rotary


class Observer(Protocol):
    """What training code may watch during a forward pass, layer by layer."""

    def attention(self, layer: int, attention: Attention, projected: Projected) -> None:
        """A layer's projected tokens, before it attends; see `observation.view_indexer` for what to make of them."""

    def routing(self, layer: int, routing: Routing) -> None:
        """Where the router of a mixture-of-experts layer sent the tokens."""


class Layer(nn.Module):
    """One decoder layer: attention, then a dense or a mixture-of-experts network, each on a normed residual."""

    def __init__(self, config: ModelConfig, index: int, parts: Parts) -> None:
        super().__init__()
        self.index = index
        sparse = config.mlp_type(index) == "sparse"
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps, parts)
        self.self_attn = Attention(config, parts)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps, parts)
        self.mlp = Moe(config, parts) if sparse else Mlp(config, config.intermediate_size, parts)

    def forward(
        self, hidden_BTD: Tensor, positions: Positions, cache: LayerCache | None, observer: Observer | None
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        projected = self.self_attn.project(self.input_layernorm(hidden_BTD), positions)
        if observer is not None:
            observer.attention(self.index, self.self_attn, projected)
        attended_BTD = self.self_attn.attend(projected, cache)
        normed_BTD, hidden_BTD = self.post_attention_layernorm.add(attended_BTD, hidden_BTD)
        return hidden_BTD + self.feed_forward(normed_BTD, observer)

    def feed_forward(self, x_BTD: Tensor, observer: Observer | None) -> Tensor:
        """The network after attention; the observer sees where a router sent the tokens."""
        if isinstance(self.mlp, Mlp):
            return self.mlp(x_BTD)
        routing = self.mlp.route(x_BTD)
        if observer is not None:
            observer.routing(self.index, routing)
        return self.mlp.combine(x_BTD, routing)


class Decoder(nn.Module):
    """Embedding, layers and last norm: what Hugging Face calls `model`."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        dtype = parts.precision.dtype
        size = (config.vocab_size, config.hidden_size)
        # Given a weight, it draws none: drawing on the meta device imports torch's compiler, a second and a half.
        self.embed_tokens = nn.Embedding(*size, _weight=torch.empty(size, device="meta", dtype=dtype))
        self.layers = nn.ModuleList(Layer(config, index, parts) for index in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps, parts)


class CausalLm(nn.Module):
    """A language model under one choice on every axis. Built empty on the meta device; see `harness.model.build`."""

    def __init__(self, config: ModelConfig, parts: Parts, device: str) -> None:
        super().__init__()
        self.config, self.parts, self.device = config, parts, device
        self.rotary = Rotary(config, device)
        self.model = Decoder(config, parts)
        if not config.tie_word_embeddings:
            # A plain layer in every precision: DeepSeek keeps the head out of FP8 (arXiv 2412.19437, section 3.3.1).
            size = (config.hidden_size, config.vocab_size)
            self.lm_head = nn.Linear(*size, bias=False, device="meta", dtype=parts.precision.dtype)

    def layers(self) -> list[Layer]:
        """The decoder layers; prediction layers, when there are any, stand after them (`harness.model.mtp`)."""
        return [cast(Layer, layer) for layer in self.model.layers[: self.config.num_hidden_layers]]

    def forward(self, tokens_BT: Tensor, observer: Observer | None = None) -> Tensor:
        """Logits [B, T, vocab] of whole fresh sequences, differentiable; float32, float64 under precision fp64."""
        span = Span.fresh(*tokens_BT.shape)
        return self.head(self.hidden(tokens_BT, span, None, observer))

    def hidden(
        self,
        tokens_BT: Tensor,
        span: Span,
        caches: Sequence[LayerCache] | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Normed last hidden states [B, T, D] of tokens that stand at `span`, after what the caches hold."""
        positions = Positions(span, *self.rotary.tables(span, self.parts.precision.wide))
        hidden_BTD = self.model.embed_tokens(tokens_BT)
        for index, layer in enumerate(self.layers()):
            hidden_BTD = layer(hidden_BTD, positions, None if caches is None else caches[index], observer)
        return self.model.norm(hidden_BTD)

    def head(self, hidden_BTD: Tensor) -> Tensor:
        """[..., D] -> logits [..., vocab]; float32, float64 under precision fp64."""
        weight = self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        return F.linear(hidden_BTD, weight).to(self.parts.precision.wide)
