"""The start of training: what attention does before anything was learned."""

from __future__ import annotations

import pytest
import torch

from harness.contract.config import ModelConfig
from harness.contract.span import Span
from harness.model.attention import Attention, Projected
from harness.model.moe import Routing
from harness.model.presets import PRESETS
from harness.train.first_weights import LOOK_BACK, FirstWeights, directions
from harness.train.model import first_model
from harness.train.recipe import load_recipe, model_config

RECIPE = "suites/recipes/reference.yaml"


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return model_config(load_recipe(RECIPE).recipe)


class Attended:
    """Attention probabilities [H, T, T] of every layer."""

    def __init__(self) -> None:
        self.layers: list[torch.Tensor] = []

    def attention(self, layer: int, attention: Attention, projected: Projected) -> None:
        from harness.contract.cache import expand

        k_BHSQ, _ = expand(projected.new_keys.rows_BTL, *attention.up_weights())
        q_BHTQ = torch.cat([projected.q_nope_BTHN, projected.q_rope_BTHR], -1).transpose(1, 2)
        scores = (q_BHTQ @ k_BHSQ.transpose(-1, -2))[0] * attention.config.softmax_scale
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        self.layers.append(scores.masked_fill(hidden, -torch.inf).softmax(-1))

    def routing(self, layer: int, routing: Routing) -> None:
        pass


@torch.no_grad()
def attended(config: ModelConfig, tokens: torch.Tensor) -> list[torch.Tensor]:
    seen = Attended()
    first_model(config, seed=0).hidden(tokens, Span.fresh(*tokens.shape), observer=seen)
    return seen.layers


def test_the_first_layer_looks_back(config: ModelConfig) -> None:
    tokens = torch.randint(3, config.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    first = attended(config, tokens)[0]
    for head, back in zip(first, LOOK_BACK, strict=True):
        assert head.diagonal(-back)[8:].mean() > 0.6


def test_later_layers_look_for_tokens_like_the_own(config: ModelConfig) -> None:
    tokens = torch.randint(3, config.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    tokens[0, 50] = tokens[0, 10]
    second = attended(config, tokens)[1]
    assert second[:, 50, 10].mean() > 3 * second[:, 50, 11:40].mean()


def test_a_tensor_depends_on_seed_and_name_alone(config: ModelConfig) -> None:
    one, two, other = FirstWeights(config, 0), FirstWeights(config, 0), FirstWeights(config, 1)
    last = [two.get(name) for name in reversed(two.names())][::-1]
    assert all(torch.equal(one.get(name), tensor) for name, tensor in zip(one.names(), last, strict=True))
    assert not torch.equal(
        one.get("model.layers.1.self_attn.o_proj.weight"), other.get("model.layers.1.self_attn.o_proj.weight")
    )


@pytest.mark.parametrize("preset", ["tiny-v32", "tiny-v32-mtp"])
def test_every_shape_can_start(preset: str) -> None:
    weights = FirstWeights(PRESETS[preset], 0)
    for name in weights.names():
        assert tuple(weights.get(name).shape) == weights.shapes[name], name


def test_tokens_differ_more_than_they_share(config: ModelConfig) -> None:
    embedding = FirstWeights(config, 0).get("model.embed_tokens.weight")
    own = embedding - embedding.mean(0)
    assert own.std() > 0.9
    assert 0.7 < embedding.mean(0).norm() / own.norm(dim=1).mean() < 1.3


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
def test_directions_are_orthonormal(shape: tuple[int, int]) -> None:
    found = directions(*shape, torch.Generator().manual_seed(0))
    product = found @ found.T if shape[0] <= shape[1] else found.T @ found
    torch.testing.assert_close(product, torch.eye(min(shape)))
