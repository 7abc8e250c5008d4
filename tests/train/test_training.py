"""Training: every stage trains its own part, a stopped run ends where an unbroken one does, the result loads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from harness.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, UsageError
from harness.model.runner import NativeRunner
from harness.train import command
from harness.train.model import first_model
from harness.train.recipe import Stage, load_recipe, model_config
from harness.train.training import Place, Training, learning_rate


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def stop_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Interrupt the `count`-th step from now."""
    step, seen = Training._step, []

    def interrupted(self: Training, stage: Stage) -> dict[str, float]:
        seen.append(1)
        if len(seen) == count:
            raise KeyboardInterrupt
        return step(self, stage)

    monkeypatch.setattr(Training, "_step", interrupted)


@pytest.mark.parametrize("steps", [2, 4, 7, 10])
def test_a_stopped_run_ends_with_the_same_weights(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    loaded = load_recipe(recipe_file)
    whole = Training(loaded, tmp_path / "whole")
    whole.run()
    with monkeypatch.context() as patch:
        stop_at(patch, steps)
        with pytest.raises(KeyboardInterrupt):
            Training(loaded, tmp_path / "broken").run()
    again = Training(loaded, tmp_path / "broken")
    again.run()
    expected = weights(whole)
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, expected[name]), name
    assert again.cost.tokens == whole.cost.tokens == (5 + 3 + 3) * 2 * 32


def test_every_stage_trains_its_own_part(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(load_recipe(recipe_file), tmp_path / "run")
    before, changed = weights(training), []
    save = Training.save

    def compare(self: Training) -> None:
        save(self)
        if self.place.step == self.recipe.stages[self.place.stage].steps if self.place.stage < 3 else False:
            nonlocal before
            after = weights(self)
            changed.append({name for name in after if not torch.equal(after[name], before[name])})
            before = after

    monkeypatch.setattr(Training, "save", compare)
    training.run()
    names = set(before)
    indexer = {name for name in names if ".indexer." in name}
    dense, only_indexer, sparse = changed
    assert dense == names - indexer
    assert only_indexer == indexer
    assert sparse == names


def test_loss_falls(recipe_file: Path, tmp_path: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("steps: 5, batch: 2", "steps: 40, batch: 8"))
    Training(load_recipe(recipe_file), tmp_path / "run").run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    dense = [line["bits_per_byte"] for line in lines if line["kind"] == "dense"]
    assert dense[-1] < dense[0] - 0.5
    assert {line["kind"] for line in lines if "indexer" in line} == {"indexer", "sparse"}


def test_the_state_of_another_recipe_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    Training(load_recipe(recipe_file), tmp_path / "run").save()
    recipe_file.write_text(recipe_file.read_text() + "seed: 1\n")
    with pytest.raises(UsageError, match="recipe_sha256 differs"):
        Training(load_recipe(recipe_file), tmp_path / "run")


def test_stages_that_are_still_to_come_may_change(recipe_file: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe_file)
    Training(loaded, tmp_path / "run").save()
    *past, last = loaded.recipe.stages
    longer = msgspec.structs.replace(loaded.recipe, stages=[*past, msgspec.structs.replace(last, steps=99)])
    assert Training(dataclasses.replace(loaded, recipe=longer), tmp_path / "run").place == Place(0, 0)
    begun = msgspec.structs.replace(past[0], steps=99)
    other = msgspec.structs.replace(loaded.recipe, stages=[begun, *past[1:], last])
    with pytest.raises(UsageError, match="recipe_sha256 differs"):
        Training(dataclasses.replace(loaded, recipe=other), tmp_path / "run")


def test_learning_rate_grows_then_falls() -> None:
    stage = Stage("dense", 10, 1, 8, learning_rate=1.0, final_learning_rate=0.1, warmup=2)
    rates = [learning_rate(stage, step) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[10] == pytest.approx(0.1)


def test_first_weights_follow_the_seed(recipe_file: Path) -> None:
    config = model_config(load_recipe(recipe_file).recipe)
    one, same, other = (first_model(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


# --- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.train.conftest import TINY

    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    assert command.main([str(folder / "tiny.yaml")]) == EXIT_OK
    return folder / "checkpoint"


def test_the_checkpoint_is_transformers_own_kind(trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained)
    model: Any = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32, output_loading_info=True)
    model, info = model
    assert type(model).__name__ == "DeepseekV32ForCausalLM"
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.tensor([tokenizer.encode("def f(x):\n    return x\n" * 4)])
    native = NativeRunner(_load(trained)).logits(tokens)
    expected = model(tokens).logits.float()
    assert (native - expected).norm() / expected.norm() < 1e-5


def _load(directory: Path) -> Any:
    from harness.contract.config import ModelConfig
    from harness.model.build import build_model
    from harness.model.checkpoint import open_tensors
    from harness.train.model import training_parts

    config = ModelConfig.read(directory)
    return build_model(config, training_parts("dsa"), open_tensors(str(directory), config))


def test_the_report_says_what_made_it(trained: Path) -> None:
    report = json.loads((trained / "training.json").read_text())
    assert report["recipe"] == "tiny.yaml"
    assert report["cost"]["tokens"] == 11 * 64
    assert report["trained_lengths"] == [32]
    assert set(report["figures"]["bits_per_byte"]) == {"dense", "dsa", "trigram"}
    assert 2 < report["figures"]["bits_per_byte"]["trigram"]["256"] < 3.5
    assert str(trained.parent) not in (trained / "training.json").read_text()
    lines = [json.loads(line) for line in (trained / "training_log.jsonl").read_text().splitlines()]
    assert (lines[-1]["stage"], lines[-1]["step"]) == (3, 3)
    assert sorted(path.name for path in trained.parent.iterdir()) == ["checkpoint", "tiny.yaml"]


def test_a_taken_output_is_refused_before_training(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(trained.parent / "tiny.yaml")]) == EXIT_USAGE
    assert "there already" in capsys.readouterr().err


def test_stopping_says_how_to_go_on(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "elsewhere"
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert command.main([str(recipe_file), "--out", str(out)]) == EXIT_INTERRUPTED
    assert "goes on" in capsys.readouterr().err
    assert not out.exists()
    assert command.main([str(recipe_file), "--out", str(out)]) == EXIT_OK
    assert "going on from stage 1, step 2" in capsys.readouterr().err
    assert (out / "model.safetensors").exists()
