"""The model as training sees it computes what the native engine computes, and its tensors survive the way to disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.contract.config import ModelConfig
from harness.contract.registry import Registry
from harness.contract.span import Span
from harness.model.build import build_model
from harness.model.checkpoint import Tensors
from harness.model.export import disk_tensors
from harness.model.layers import Parts
from harness.train.model import first_model, training_parts, whole_sequence_attention
from harness.train.recipe import load_recipe, model_config


class Kept(Tensors):
    """Tensors from a dictionary."""

    def __init__(self, config: ModelConfig, tensors: dict[str, Tensor]) -> None:
        super().__init__(config)
        self.tensors = tensors

    def get(self, name: str) -> Tensor:
        return self.tensors[name]


@pytest.fixture
def config(recipe_file: Path) -> ModelConfig:
    return model_config(load_recipe(recipe_file).recipe)


def eager_parts(selector: str) -> Parts:
    registry = Registry(entry_points=False)
    names = {"form": "mha", "selector": selector, "precision": "fp32", "cache": "latent", "kernels": "eager"}
    form, select, precision, cache, ops = (registry.option(axis, name).load() for axis, name in names.items())
    return Parts(form, select, precision, cache, ops)


@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_training_computes_what_the_engine_computes(config: ModelConfig, selector: str) -> None:
    trained = first_model(config, seed=3, selector=selector)
    tokens = torch.randint(256, (2, 40), generator=torch.Generator().manual_seed(0))
    eager = build_model(config, eager_parts(selector), Kept(config, disk_tensors(trained, torch.float32)))
    losses = [model(tokens).logsumexp(-1).mean() for model in (trained, eager)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    expected = dict(eager.named_parameters())
    for name, parameter in trained.named_parameters():
        if ".indexer." not in name:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6, msg=name)


def test_tensors_survive_the_way_to_disk(config: ModelConfig) -> None:
    model = first_model(config, seed=1)
    again = build_model(config, training_parts("dense"), Kept(config, disk_tensors(model, torch.float32)))
    for (name, one), (other_name, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(one, other), name


def test_what_stays_wide_is_stored_wide(config: ModelConfig) -> None:
    stored = disk_tensors(first_model(config, seed=1), torch.bfloat16)
    wide = {name for name, tensor in stored.items() if tensor.dtype == torch.float32}
    assert "model.layers.1.mlp.gate.weight" in wide
    assert "model.norm.weight" in wide
    assert "model.embed_tokens.weight" not in wide


def test_anything_but_a_whole_sequence_goes_to_the_reference() -> None:
    asked: list[Span] = []

    def reference(q: Tensor, k: Tensor, v: Tensor, span: Span, scale: float, selected: Tensor | None) -> Tensor:
        asked.append(span)
        return q

    attend = whole_sequence_attention(reference)
    q, k = torch.randn(1, 4, 2, 8), torch.randn(1, 2, 4, 8)
    attend(q, k, k, Span.fresh(1, 4), 1.0, None)
    assert not asked
    attend(q, k, k, Span.fresh(1, 4), 1.0, torch.zeros(1, 4, 1, dtype=torch.int64))
    attend(q, k, k, Span((2,), (6,), 4), 1.0, None)
    assert len(asked) == 2
