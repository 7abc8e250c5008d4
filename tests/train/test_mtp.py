"""Training with a multi-token-prediction layer: its loss, its router, its indexer, and nothing of it without."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from harness.contract.config import ModelConfig
from harness.contract.span import Span
from harness.errors import EXIT_OK, UsageError
from harness.model.build import build_model
from harness.model.checkpoint import open_tensors
from harness.model.mtp import mtp_layers
from harness.model.parameters import MTP_COPIES
from harness.model.runner import NativeRunner
from harness.model.transformer import CausalLm
from harness.train import command, figures
from harness.train.data import training_tokenizer
from harness.train.model import first_model, training_parts
from harness.train.objectives import Watcher, language_loss, mtp_loss
from harness.train.recipe import LoadedRecipe, load_recipe, model_config
from harness.train.training import Training
from tests.train.conftest import TINY
from tests.train.test_training import stop_at, weights

PREDICTION_LAYER = "model.layers.2."


def with_mtp(text: str, layers: int = 1, dense: float = 0.3, sparse: float = 0.1) -> str:
    """The tiny recipe with prediction layers, and weights of their loss in its dense and sparse stages."""
    text = text.replace("  num_hidden_layers: 2\n", f"  num_hidden_layers: 2\n  num_nextn_predict_layers: {layers}\n")
    text = text.replace("{kind: dense,", f"{{kind: dense, mtp_weight: {dense},")
    return text.replace("{kind: sparse,", f"{{kind: sparse, mtp_weight: {sparse},")


@pytest.fixture
def loaded(recipe_file: Path) -> LoadedRecipe:
    recipe_file.write_text(with_mtp(TINY))
    return load_recipe(recipe_file)


@pytest.fixture
def model(loaded: LoadedRecipe) -> CausalLm:
    return first_model(model_config(loaded.recipe), seed=1)


def hidden_of(model: CausalLm, tokens_BT: torch.Tensor) -> torch.Tensor:
    return model.hidden(tokens_BT, Span.fresh(*tokens_BT.shape))


def test_the_loss_is_that_of_the_token_after_the_next(model: CausalLm) -> None:
    """By hand, position by position, from what the layer's last norm gave to the head."""
    tokens = torch.randint(256, (2, 13), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    hidden = hidden_of(model, inputs)
    seen = []

    handle = mtp_layers(model)[0].shared_head.norm.register_forward_hook(lambda *call: seen.append(call[2]))
    loss = mtp_loss(model, hidden, inputs, targets)
    handle.remove()
    logits = F.linear(seen[0], model.lm_head.weight)
    assert logits.shape[1] == 11
    terms = [-logits[b, t].log_softmax(-1)[tokens[b, t + 2]] for b in range(2) for t in range(11)]
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_half_of_what_comes_in_pairs_can_be_learnt(model: CausalLm) -> None:
    """Text of pairs (a, s(a)) with a at random: token t + 2 is certain from token t + 1 in every second place.

    Who reads a token too few finds chance everywhere, and who reads the very token loses nothing anywhere.
    """
    generator = torch.Generator().manual_seed(0)
    successor = torch.randperm(16, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(130):
        first = torch.randint(16, (8, 13), generator=generator)
        tokens = torch.stack([first, successor[first]], -1).flatten(1)
        loss = mtp_loss(model, hidden_of(model, tokens[:, :-1]), tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert 0.45 < loss.item() / math.log(16) < 0.7


def test_gradients_reach_what_the_paper_trains(model: CausalLm) -> None:
    tokens = torch.randint(256, (2, 13), generator=torch.Generator().manual_seed(0))
    mtp_loss(model, hidden_of(model, tokens[:, :-1]), tokens[:, :-1], tokens[:, 1:]).backward()
    learns = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert learns == {name for name, _ in model.named_parameters() if ".indexer." not in name}


def test_the_observer_sees_the_layer_under_its_number(model: CausalLm) -> None:
    tokens = torch.randint(256, (2, 13), generator=torch.Generator().manual_seed(0))
    watcher = Watcher(2, watch_indexer=True)
    mtp_loss(model, hidden_of(model, tokens[:, :-1]), tokens[:, :-1], tokens[:, 1:], observer=watcher)
    assert list(watcher.counts) == [2]
    assert len(watcher.divergence) == len(watcher.balance) == 1
    watcher.divergence[0].backward()
    learns = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert learns == {n for n, _ in model.named_parameters() if n.startswith(f"{PREDICTION_LAYER}self_attn.indexer.")}


def test_every_stage_trains_the_layer_like_the_others(
    loaded: LoadedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(loaded, tmp_path / "run")
    start, changed = weights(training), {}
    enter = Training._enter

    def compare(self: Training, stage: int) -> None:
        nonlocal start
        after = weights(self)
        changed[self.recipe.stages[stage - 1].kind] = {n for n in after if not torch.equal(after[n], start[n])}
        start = after
        enter(self, stage)

    monkeypatch.setattr(Training, "_enter", compare)
    training.run()
    names = set(start)
    indexer = {name for name in names if ".indexer." in name}
    assert any(name.startswith(PREDICTION_LAYER) for name in indexer)
    assert f"{PREDICTION_LAYER}mlp.gate.e_score_correction_bias" in changed["dense"]
    assert changed == {"dense": names - indexer, "indexer": indexer, "sparse": names}


@pytest.mark.parametrize("steps", [3, 7, 10])
def test_a_stopped_run_ends_with_the_same_weights(
    loaded: LoadedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    whole = Training(loaded, tmp_path / "whole")
    whole.run()
    with monkeypatch.context() as patch:
        stop_at(patch, steps)
        with pytest.raises(KeyboardInterrupt):
            Training(loaded, tmp_path / "broken").run()
    again = Training(loaded, tmp_path / "broken")
    again.run()
    expected = weights(whole)
    assert any(name.startswith(PREDICTION_LAYER) for name in expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(again).items())


def test_without_its_loss_the_main_model_is_the_same_bit_for_bit(recipe_file: Path, tmp_path: Path) -> None:
    """In the language-model stages: a model with the layer, untrained, and a model without it."""
    plain = TINY[: TINY.index("  - {kind: indexer")]
    found = []
    for name, text in (("without", plain), ("idle", with_mtp(plain, dense=0.0)), ("used", with_mtp(plain))):
        recipe_file.write_text(text)
        training = Training(load_recipe(recipe_file), tmp_path / name)
        training.run()
        found.append(weights(training))
    without, idle, used = found
    assert all(torch.equal(tensor, idle[name]) for name, tensor in without.items())
    untouched = first_model(training.config, 0).state_dict()
    assert all(torch.equal(idle[name], untouched[name]) for name in idle if name.startswith(PREDICTION_LAYER))
    assert not torch.equal(used["lm_head.weight"], without["lm_head.weight"])


def test_the_log_says_how_well_it_predicts(loaded: LoadedRecipe, tmp_path: Path) -> None:
    said: list[str] = []
    Training(loaded, tmp_path / "run", said.append).run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(0 < line["mtp"] < 8 for line in lines)
    assert all("MTP" in sentence for sentence in said)


def test_the_weight_scales_the_loss(loaded: LoadedRecipe, model: CausalLm, tmp_path: Path) -> None:
    training = Training(loaded, tmp_path / "run")
    losses = {"language": torch.tensor(2.0), "mtp": torch.tensor(3.0)}
    assert training._total(loaded.recipe.stages[0], losses).item() == pytest.approx(2.0 + 0.3 * 3.0)
    assert language_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64)).item() == pytest.approx(1.3862944)


# --- the finished checkpoint -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(with_mtp(TINY))
    assert command.main([str(folder / "tiny.yaml")]) == EXIT_OK
    return folder / "checkpoint"


def test_the_report_has_the_acceptance(trained: Path) -> None:
    accepted = json.loads((trained / "training.json").read_text())["figures"]["mtp_acceptance"]
    assert set(accepted) == {"dense", "dsa"}
    assert all(0 <= share <= 1 for name in accepted for share in accepted[name].values())
    assert set(accepted["dense"]) == {"256"}


def test_acceptance_counts_agreement_at_the_same_place(model: CausalLm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts that are the main model's own choices one place on, three of them spoilt."""
    runner, tokenizer = NativeRunner(model), training_tokenizer(600)
    documents = ["\n" * 20, "#" + "\n" * 19]
    tokens = figures.after_bos(documents, tokenizer)
    assert tokens.shape == (2, 21)
    drafts = F.one_hot(runner.logits(tokens)[:, 1:].argmax(-1), 600).float()
    drafts[0, [3, 7]] = drafts[1, 19] = 0.0
    drafts[0, [3, 7], 599] = drafts[1, 19, 599] = 1.0
    monkeypatch.setattr(figures, "look_ahead", lambda model, hidden, tokens: iter([drafts]))
    assert figures.mtp_acceptance(runner, documents, tokenizer) == pytest.approx(37 / 40)


def test_the_checkpoint_has_the_layer_once_and_loads_everywhere(trained: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = ModelConfig.read(trained)
    stored = load_file(trained / "model.safetensors")
    assert config.num_nextn_predict_layers == 1
    assert stored[f"{PREDICTION_LAYER}eh_proj.weight"].shape == (32, 64)
    assert not {f"{PREDICTION_LAYER}{name}" for name in MTP_COPIES} & set(stored)
    loaded: Any = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32, output_loading_info=True)
    peer, info = loaded
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    # Only the layer is left over, and transformers says so (the names of its stacked tensors are its own).
    assert info["unexpected_keys"]
    assert all(name.startswith(PREDICTION_LAYER) for name in info["unexpected_keys"])
    tokens = torch.tensor([list(b"def f(x):\n    return x\n" * 4)])
    natives = [
        build_model(config, training_parts("dsa"), open_tensors(str(trained), config, mtp=mtp)) for mtp in (False, True)
    ]
    plain, ahead = (NativeRunner(native).logits(tokens) for native in natives)
    assert torch.equal(plain, ahead)
    assert [len(mtp_layers(native)) for native in natives] == [0, 1]
    expected = peer(tokens).logits
    assert (plain - expected).norm() / expected.norm() < 1e-5


# --- recipes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "num_nextn_predict_layers: 1",
            "num_nextn_predict_layers: 0",
            r"tiny\.yaml:25.*weight is 0\.3.*layers is 0",
        ),
        ("kind: indexer,", "kind: indexer, mtp_weight: 0.1,", r"tiny\.yaml:26.*mtp_weight is 0\.1.*no language loss"),
        ("mtp_weight: 0.3", "mtp_weight: 1.3", r"tiny\.yaml:25.*mtp_weight"),
    ],
)
def test_weights_without_a_use_are_refused(recipe_file: Path, old: str, new: str, message: str) -> None:
    recipe_file.write_text(with_mtp(TINY).replace(old, new))
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe_file)
