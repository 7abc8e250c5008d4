"""What training needs of the model: gradients, the indexer's target, routing counts."""

from __future__ import annotations

import pytest
import torch

from harness.contract.registry import Registry
from harness.model.attention import Attention, Projected
from harness.model.build import build_model
from harness.model.checkpoint import RandomTensors
from harness.model.layers import Parts
from harness.model.moe import Routing
from harness.model.observation import IndexerView, view_indexer
from harness.model.presets import PRESETS
from harness.model.transformer import CausalLm
from tests.support.checkpoints import random_tokens

TOKENS = random_tokens(2, 40, vocab_size=128)


def _model(preset: str, form: str, selector: str, precision: str = "fp32") -> CausalLm:
    registry = Registry(entry_points=False)
    parts = registry.load(registry.variant({"form": form, "selector": selector, "precision": precision}))
    chosen = Parts(parts["form"], parts["selector"], parts["precision"], parts["cache"], parts["kernels"])
    return build_model(PRESETS[preset], chosen, RandomTensors(PRESETS[preset], 0))


class Recorder:
    """Keeps what it is shown."""

    def __init__(self, sparse: bool = True) -> None:
        self.sparse = sparse
        self.views: list[IndexerView] = []
        self.routings: list[Routing] = []

    def attention(self, layer: int, attention: Attention, projected: Projected) -> None:
        assert layer == len(self.views)
        self.views.append(view_indexer(attention, projected, self.sparse))

    def routing(self, layer: int, routing: Routing) -> None:
        assert layer == 1  # layer 0 of the preset is dense
        self.routings.append(routing)


def _loss(model: CausalLm) -> torch.Tensor:
    logits_BTV = model(TOKENS)
    return torch.nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


@pytest.mark.parametrize("form", ["mha", "mqa"])
@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_gradients_are_those_of_finite_differences(form: str, selector: str) -> None:
    """In FP64, along a random direction of all parameters at once."""
    model = _model("tiny-v32", form, selector, "fp64")
    _loss(model).backward()
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    directions = [each * p.detach().abs().mean() for each, p in zip(noise, parameters, strict=True)]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions, strict=True))
    losses = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=step)
            losses.append(_loss(model))
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(d, alpha=step)
    assert slope.item() == pytest.approx((losses[0] - losses[1]).item() / 2e-6, rel=1e-4)
    frozen = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert all("indexer" in name for name in frozen)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_indexers_target_is_its_layers_attention(sparse: bool) -> None:
    model = _model("tiny-v32", "mha", "dsa" if sparse else "dense")
    recorder = Recorder(sparse)
    model(TOKENS, recorder)
    for view in recorder.views:
        rows = view.target_BTS.sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))
        assert (view.target_BTS[~view.selected_BTS] == 0).all()
        expected = torch.arange(1, 41).clamp(max=16 if sparse else 40)
        assert torch.equal(view.selected_BTS.sum(-1), expected.expand(2, -1))
        lowest = view.scores_BTS.masked_fill(~view.selected_BTS, torch.inf).amin(-1)
        seen = view.scores_BTS.masked_fill(view.selected_BTS, -torch.inf).amax(-1)
        assert (lowest >= seen).all()


def test_the_indexers_loss_trains_the_indexer_alone() -> None:
    model = _model("tiny-v32", "mha", "dsa")
    recorder = Recorder()
    model(TOKENS, recorder)
    loss = torch.tensor(0.0)
    for view in recorder.views:
        log_q = view.scores_BTS.masked_fill(~view.selected_BTS, -torch.inf).log_softmax(-1)
        terms = view.target_BTS * (view.target_BTS.clamp(min=1e-20).log() - log_q)
        loss = loss + terms.masked_fill(~view.selected_BTS, 0).sum(-1).mean()
    assert loss > 0.01
    loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if "indexer" in name}
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.parameters() if p.grad is not None)


def test_routing_counts() -> None:
    recorder = Recorder()
    _model("tiny-v32", "mha", "dsa")(TOKENS, recorder)
    (routing,) = recorder.routings
    counts = routing.counts()
    assert counts.shape == (8,)
    assert counts.sum() == 2 * 40 * 3
    assert counts[0] == (routing.experts_MA == 0).sum()
    torch.testing.assert_close(routing.weights_MA.sum(-1), torch.full((80,), 2.5))


def test_a_model_without_an_indexer_says_so() -> None:
    with pytest.raises(ValueError, match="this model has no indexer"):
        _model("tiny-v3", "mha", "dense")(TOKENS, Recorder())
