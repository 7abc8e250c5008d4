"""The losses, against their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from harness.model.moe import Routing
from harness.model.observation import IndexerView
from harness.train.data import Batch
from harness.train.documents import Kind
from harness.train.model import first_model
from harness.train.objectives import (
    Watcher,
    indexer_divergence,
    language_loss,
    query_weights,
    seen_by_kind,
    sequence_balance,
    token_weights,
    update_biases,
)
from harness.train.recipe import load_recipe, model_config


def test_divergence_is_zero_for_the_very_distribution_and_positive_otherwise() -> None:
    covered = torch.ones(1, 4, 4, dtype=torch.bool).tril()
    scores = torch.randn(1, 4, 4).masked_fill(~covered, -torch.inf)
    same = IndexerView(scores, scores.softmax(-1), covered)
    assert indexer_divergence(same).item() == pytest.approx(0, abs=1e-6)
    flat = IndexerView(scores, covered / covered.sum(-1, keepdim=True), covered)
    expected = torch.stack(
        [
            sum(1 / (t + 1) * (math.log(1 / (t + 1)) - scores[0, t].log_softmax(-1)[s]) for s in range(t + 1))  # type: ignore[misc]
            for t in range(4)
        ]
    ).mean()
    assert indexer_divergence(flat).item() == pytest.approx(expected.item(), rel=1e-5)


def test_queries_of_facts_and_questions_count_more_in_the_divergence() -> None:
    covered = torch.ones(1, 4, 4, dtype=torch.bool).tril()
    scores = torch.randn(1, 4, 4).masked_fill(~covered, -torch.inf)
    view = IndexerView(scores, covered / covered.sum(-1, keepdim=True), covered)
    alone = [
        indexer_divergence(view, torch.eye(4)[None, t]).item()  # every weight on one query
        for t in range(4)
    ]
    kinds = torch.tensor([[Kind.TEXT, Kind.ANSWER, Kind.UNPREDICTABLE, Kind.TEXT]])
    expected = (alone[0] + 5 * alone[1] + 5 * alone[2] + alone[3]) / 12
    assert indexer_divergence(view, query_weights(kinds, 5.0)).item() == pytest.approx(expected, rel=1e-5)
    shorter = torch.tensor([[9.0, 9.0, 0.0, 1.0, 0.0, 0.0]])  # of two tokens more, as a prediction layer has
    assert indexer_divergence(view, shorter).item() == pytest.approx(alone[1], rel=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_divergence_teaches_the_indexer_alone(recipe_file: Path, sparse: bool) -> None:
    model = first_model(model_config(load_recipe(recipe_file).recipe), seed=1)
    watcher = Watcher(2, watch_indexer=True, sparse=sparse)
    model(torch.randint(256, (2, 20)), watcher)
    assert len(watcher.divergence) == 2
    torch.stack(watcher.divergence).sum().backward()
    for name, parameter in model.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert learns == (".indexer." in name), name
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def test_the_sparse_stage_compares_over_the_selected_keys(recipe_file: Path) -> None:
    model = first_model(model_config(load_recipe(recipe_file).recipe), seed=1)
    tokens = torch.randint(256, (2, 20))
    watchers = [Watcher(2, watch_indexer=True, sparse=sparse) for sparse in (False, True)]
    for watcher in watchers:
        model(tokens, watcher)
    for dense, sparse in zip(*(watcher.divergence for watcher in watchers), strict=True):
        assert not torch.isclose(dense, sparse)
    short = [Watcher(2, watch_indexer=True, sparse=sparse) for sparse in (False, True)]
    for watcher in short:
        model(tokens[:, :8], watcher)  # no more tokens than index_topk: everything is selected
    for dense, sparse in zip(*(watcher.divergence for watcher in short), strict=True):
        assert torch.isclose(dense, sparse)


def routing(experts: list[list[int]], count: int) -> Routing:
    experts_MA = torch.tensor(experts)
    scores_ME = torch.zeros(len(experts), count).scatter(1, experts_MA, 1.0)
    return Routing(experts_MA, torch.ones_like(experts_MA, dtype=torch.float32), scores_ME)


def test_balance_is_one_when_even_and_grows_when_not() -> None:
    even = routing([[0, 1], [2, 3], [1, 0], [3, 2]], 4)
    assert sequence_balance(even, 1).item() == pytest.approx(1.0)
    assert sequence_balance(even, 2).item() == pytest.approx(1.0)
    assert sequence_balance(routing([[0, 1]] * 4, 4), 1).item() == pytest.approx(2.0)
    # Balanced over the batch, but not within each sequence:
    apart = routing([[0, 1], [0, 1], [2, 3], [2, 3]], 4)
    assert sequence_balance(apart, 1).item() == pytest.approx(1.0)
    assert sequence_balance(apart, 2).item() == pytest.approx(2.0)


def test_biases_move_against_the_load(recipe_file: Path) -> None:
    model = first_model(model_config(load_recipe(recipe_file).recipe), seed=0)
    update_biases(model, {1: torch.tensor([10, 2, 4, 0])}, speed=0.01)
    bias = model.state_dict()["model.layers.1.mlp.gate.e_score_correction_bias"]
    assert bias.tolist() == pytest.approx([-0.01, 0.01, 0.0, 0.01])


def test_unpredictable_tokens_do_not_count_and_answers_count_more() -> None:
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    targets, kinds = (
        torch.tensor([[1, 2, 3, 4]]),
        torch.tensor([[Kind.UNPREDICTABLE, Kind.TEXT, Kind.ANSWER, Kind.TEXT]]),
    )
    nats = -logits.log_softmax(-1)[0, range(4), [1, 2, 3, 4]]
    loss = language_loss(logits, targets, token_weights(kinds, 6.0))
    assert loss.item() == pytest.approx(((nats[1] + 6 * nats[2] + nats[3]) / 3).item())


def test_what_is_seen_of_text_and_of_answers() -> None:
    kinds = torch.tensor([[Kind.TEXT, Kind.ANSWER, Kind.ANSWER, Kind.UNPREDICTABLE]])
    batch = Batch(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[0, 1, 1, 0]]), kinds)
    logits = torch.zeros(1, 4, 2)
    logits[0, 1, 1] = logits[0, 2, 0] = 1.0
    seen = seen_by_kind(logits, batch)
    assert seen["answers"].item() == 0.5
    assert seen["text"].item() == pytest.approx(0.6931472)
