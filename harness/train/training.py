"""A training run that can be stopped at any moment and goes on where it last saved its state.

Its folder holds `state.pt` (weights, optimiser, place and cost; replaced atomically) and `log.jsonl`, a line per
save. Batches depend on the step alone, so a stopped run ends with the weights that an unbroken one has.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness import corpus
from harness.contract.span import Span
from harness.errors import UsageError
from harness.model.mtp import mtp_layers
from harness.model.transformer import CausalLm
from harness.train.data import Batches, training_tokenizer
from harness.train.model import first_model
from harness.train.objectives import (
    Watcher,
    language_loss,
    mtp_loss,
    query_weights,
    seen_by_kind,
    token_weights,
    update_biases,
)
from harness.train.recipe import LoadedRecipe, Optimizer, Recipe, Stage, model_config, past_sha256

STATE = "state.pt"
LOG = "log.jsonl"
TOKENIZER = "tokenizer.json"


class Cost(msgspec.Struct):
    """What a run has taken so far, over all its restarts."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    tokens: int = 0


@dataclass
class Place:
    """Where a run stands: the step that comes next."""

    stage: int = 0
    step: int = 0


class Training:
    """One run of a recipe in its folder."""

    def __init__(self, loaded: LoadedRecipe, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        """Start, or go on from the folder's state. Raises UsageError when that state is of another recipe or text.

        Stages that the state has not entered may differ: they have decided nothing yet.
        """
        self.recipe, self.folder, self.say = loaded.recipe, folder, say
        self.config = model_config(self.recipe)
        self.place, self.cost = Place(), Cost()
        folder.mkdir(parents=True, exist_ok=True)
        saved = self._read_state()
        self.tokenizer = self._tokenizer()
        self.batches = Batches(self.recipe, self.tokenizer)
        if saved is None:
            self.model = first_model(self.config, self.recipe.seed, self._selector())
            self.optimizer = self._new_optimizer()
        else:
            self._restore(saved)

    # --- running ---------------------------------------------------------------------------------

    def run(self) -> CausalLm:
        """Train to the end and return the model."""
        torch.set_num_threads(self.recipe.threads)
        meter = Meter(self)
        while self.place.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.place.stage]
            if self.place.step == stage.steps:
                self._enter(self.place.stage + 1)
                continue
            meter.add(self._step(stage))
            self.place.step += 1
            if self.place.step % self.recipe.save_every == 0 or self.place.step == stage.steps:
                meter.report(stage)
                self.save()
        return self.model

    def _step(self, stage: Stage) -> dict[str, float]:
        """One update; the losses that it saw."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(stage, self.place.step)
        batch = self.batches.get(self.place.stage, self.place.step)
        weights_BT = token_weights(batch.kinds_BT, self.recipe.answer_weight)
        watcher = Watcher(
            stage.batch,
            watch_indexer=stage.kind != "dense",
            sparse=stage.kind == "sparse",
            weights_BT=query_weights(batch.kinds_BT, self.recipe.answer_weight),
        )
        hidden_BTD = self.model.hidden(batch.inputs_BT, Span.fresh(*batch.inputs_BT.shape), observer=watcher)
        logits_BTV = self.model.head(hidden_BTD)
        losses = {"language": language_loss(logits_BTV, batch.targets_BT, weights_BT)}
        if looks_ahead(self.model, stage):
            losses["mtp"] = mtp_loss(self.model, hidden_BTD, batch.inputs_BT, batch.targets_BT, weights_BT, watcher)
        if watcher.divergence:
            losses["indexer"] = torch.stack(watcher.divergence).mean()
        if watcher.balance:
            losses["balance"] = torch.stack(watcher.balance).mean()
        self._update(self._total(stage, losses))
        if stage.kind != "indexer":
            update_biases(self.model, watcher.counts, self.recipe.balance.bias_speed)
        return {name: loss.item() for name, loss in (losses | seen_by_kind(logits_BTV, batch)).items()}

    def _total(self, stage: Stage, losses: dict[str, Tensor]) -> Tensor:
        if stage.kind == "indexer":
            return losses["indexer"]
        total = losses["language"]
        if "mtp" in losses:
            total = total + stage.mtp_weight * losses["mtp"]
        if "balance" in losses:
            total = total + self.recipe.balance.sequence_loss * losses["balance"]
        return total + losses["indexer"] if "indexer" in losses else total

    def _update(self, loss: Tensor) -> None:
        loss.backward()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    # --- stages ----------------------------------------------------------------------------------

    def _selector(self) -> str:
        last = len(self.recipe.stages) - 1
        return "dsa" if self.recipe.stages[min(self.place.stage, last)].kind == "sparse" else "dense"

    def _enter(self, stage: int) -> None:
        """The same weights under the next stage's selector; the optimiser goes on if it trains the same ones."""
        self.place = Place(stage, 0)
        weights, trained, former = self.model.state_dict(), self._trained(), self.optimizer.state_dict()
        self.model = first_model(self.config, self.recipe.seed, self._selector())
        self.model.load_state_dict(weights)
        self.optimizer = self._new_optimizer()
        if self._trained() == trained:
            self.optimizer.load_state_dict(former)

    def _trained(self) -> list[str]:
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def _new_optimizer(self) -> torch.optim.AdamW:
        stage = self.recipe.stages[min(self.place.stage, len(self.recipe.stages) - 1)]
        trained = dict(trained_parameters(self.model, stage))
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
        return new_optimizer(trained, self.recipe.optimizer)

    # --- state -----------------------------------------------------------------------------------

    def save(self) -> None:
        """Replace the saved state; being killed here leaves the old or the new one, never half of one."""
        state = {
            **self._identity(self.place.stage),
            "place": vars(self.place),
            "cost": msgspec.structs.asdict(self.cost),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        fresh = self.folder / f"{STATE}.new"
        torch.save(state, fresh)
        os.replace(fresh, self.folder / STATE)

    def _identity(self, stage: int) -> dict[str, str]:
        """What decides a state of that stage."""
        return {"recipe_sha256": past_sha256(self.recipe, stage), "text_sha256": corpus.split("train").sha256}

    def _tokenizer(self) -> Tokenizer:
        """The recipe's tokenizer, learned once; a run that goes on has it in its folder."""
        path = self.folder / TOKENIZER
        if not path.exists():
            fresh = path.with_suffix(".new")
            training_tokenizer(self.recipe.model.vocab_size).save(str(fresh))
            os.replace(fresh, path)
        return Tokenizer.from_file(str(path))

    def _read_state(self) -> dict[str, Any] | None:
        path = self.folder / STATE
        if not path.exists():
            return None
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        identity = self._identity(saved["place"]["stage"])
        unlike = [name for name, value in identity.items() if saved[name] != value]
        if unlike:
            raise UsageError(
                f"a saved state of another run is there ({', '.join(unlike)} differs); remove it to start anew",
                str(self.folder),
            )
        return saved

    def _restore(self, saved: dict[str, Any]) -> None:
        self.place, self.cost = Place(**saved["place"]), Cost(**saved["cost"])
        self.model = first_model(self.config, self.recipe.seed, self._selector())
        self.model.load_state_dict(saved["model"])
        self.optimizer = self._new_optimizer()
        self.optimizer.load_state_dict(saved["optimizer"])
        self.say(f"going on from stage {self.place.stage + 1}, step {self.place.step}")


class Meter:
    """Means of the losses since the last report, and what they cost."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self._reset()

    def _reset(self) -> None:
        self.seen: list[dict[str, float]] = []
        self.cpu, self.wall = time.process_time(), time.monotonic()

    def add(self, losses: dict[str, float]) -> None:
        """Take in one step's losses. Raises UsageError when training has diverged."""
        if not all(map(math.isfinite, losses.values())):
            place = self.training.place
            raise UsageError(f"a loss is not finite at stage {place.stage + 1}, step {place.step}: {losses}")
        self.seen.append(losses)

    def report(self, stage: Stage) -> None:
        """Add to the run's cost, write a log line, say how far the run is."""
        training, tokens = self.training, len(self.seen) * stage.batch * stage.length
        seconds = time.monotonic() - self.wall
        training.cost.cpu_seconds += time.process_time() - self.cpu
        training.cost.wall_seconds += seconds
        training.cost.tokens += tokens
        names = dict.fromkeys(name for losses in self.seen for name in losses)
        means = {name: statistics.fmean(seen[name] for seen in self.seen if name in seen) for name in names}
        line = {
            "stage": training.place.stage + 1,
            "kind": stage.kind,
            "step": training.place.step,
            **{name: round(value, 5) for name, value in means.items()},
            "bits_per_byte": round(means.get("text", math.nan) / math.log(2) / training.batches.bytes_per_token, 4),
            "learning_rate": learning_rate(stage, training.place.step),
            "tokens_per_second": round(tokens / seconds),
            "cpu_minutes": round(training.cost.cpu_seconds / 60, 2),
        }
        with (training.folder / LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")
        training.say(_sentence(line, stage, training.recipe))
        self._reset()


def learning_rate(stage: Stage, step: int) -> float:
    """Linear growth over `warmup` steps, then a half cosine from `learning_rate` down to `final_learning_rate`."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / stage.warmup
    share = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    fall = stage.learning_rate - stage.final_learning_rate
    return stage.final_learning_rate + fall * (1 + math.cos(math.pi * min(1.0, share))) / 2


def looks_ahead(model: CausalLm, stage: Stage) -> bool:
    """Whether a stage runs the prediction layers: for their loss, or to train their indexers like all others."""
    return bool(mtp_layers(model)) and (stage.mtp_weight > 0 or stage.kind == "indexer")


def trained_parameters(model: CausalLm, stage: Stage) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """What a stage trains: everything but the indexers, the indexers alone, or everything; of what it runs."""
    still = () if looks_ahead(model, stage) else tuple(f"model.layers.{n}." for n in model.config.mtp_numbers())
    for name, parameter in model.named_parameters():
        of_indexer = ".indexer." in name
        if name.startswith(still):
            continue
        if stage.kind == "sparse" or of_indexer == (stage.kind == "indexer"):
            yield name, parameter


def new_optimizer(trained: dict[str, torch.nn.Parameter], settings: Optimizer) -> torch.optim.AdamW:
    """AdamW; weights of norms and embeddings are not decayed."""
    decayed = [parameter for name, parameter in trained.items() if parameter.ndim > 1 and "embed" not in name]
    others = [parameter for name, parameter in trained.items() if not (parameter.ndim > 1 and "embed" not in name)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=betas, fused=True)


def _sentence(line: dict[str, Any], stage: Stage, recipe: Recipe) -> str:
    return (
        f"stage {line['stage']}/{len(recipe.stages)} {stage.kind} step {line['step']}/{stage.steps}: "
        f"{line['bits_per_byte']:.3f} bits/byte"
        + (f", answers {line['answers']:.1%} right" if "answers" in line else "")
        + (f", MTP {line['mtp'] / math.log(2):.3f}" if "mtp" in line else "")
        + (f", indexer KL {line['indexer']:.3f}" if "indexer" in line else "")
        + f", {line['tokens_per_second']} tokens/s, {line['cpu_minutes']:.1f} CPU minutes so far"
    )
