"""The accuracy measurement as the worker uses it, on the tiny random checkpoint."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from harness import corpus
from harness.errors import UsageError
from harness.measure.accuracy import trained_lengths
from harness.measure.accuracy_catalog import find_task
from harness.measure.measurement import Bench, Outcome, open_measurement
from harness.records.record import Status
from harness.retrieval import VALUE
from harness.suite.cell import CellId
from harness.suite.schema import Accuracy
from harness.suite.variant import Variant
from tests.accuracy.conftest import PLAIN, TransformersRunner

VARIANT = Variant("hf", "mha", "dense", "fp32", "latent", "eager", "plain")


def measure(
    runner: Any, checkpoint: Path, tmp_path: Path, workload: Accuracy, heard: list[Any] | None = None
) -> Outcome:
    bench = Bench(
        runner=runner,
        parts={"decoding": PLAIN},
        checkpoint=str(checkpoint),
        seed=0,
        device="cpu",
        folder=tmp_path,
        progress=lambda fraction, text: heard.append((fraction, text)) if heard is not None else None,
    )
    cell = CellId("table", {"kind": "accuracy", "tasks": workload.tasks, "length": workload.length}, VARIANT)
    measurement = open_measurement(workload, bench, cell)
    assert not measurement.timed
    return measurement.finish()


def test_bits_per_byte(runner: TransformersRunner, checkpoint: Path, tmp_path: Path) -> None:
    heard: list[Any] = []
    outcome = measure(runner, checkpoint, tmp_path, Accuracy("bits_per_byte", 256, limit=6, batch=4), heard)
    assert outcome.status is Status.PASSED
    metric = outcome.metrics["bits_per_byte"]
    assert (metric.unit, metric.better, len(metric.samples)) == ("bits/byte", "lower", 6)
    assert outcome.context["tokens"] == {"min": 256, "median": 256, "max": 256}
    assert outcome.context["text_sha256"] == corpus.text_hashes()["held_out"]
    assert outcome.documents is not None
    for document, sample in zip(outcome.documents, metric.samples, strict=True):
        assert document["log_loss"] / math.log(2) / 256 == pytest.approx(sample)
        assert document["tokens"] == 256
    assert heard[-1] == (1.0, "scored 6 of 6")


def test_lm_eval_describes_no_machine(
    runner: TransformersRunner, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs pip and compilers for that, after every evaluation; records describe the machine themselves."""
    asked: list[str] = []
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: asked.append("environment") or "")
    assert measure(runner, checkpoint, tmp_path, Accuracy("bits_per_byte", 256, limit=1)).status is Status.PASSED
    assert asked == []


def test_continuation(runner: TransformersRunner, checkpoint: Path, tmp_path: Path) -> None:
    outcome = measure(runner, checkpoint, tmp_path, Accuracy("continuation", 256, limit=5))
    assert outcome.documents is not None
    for document, hit in zip(outcome.documents, outcome.metrics["acc_mutual_info"].samples, strict=True):
        likelihoods = document["log_likelihoods"]
        assert len(likelihoods) == 4
        assert document["answer"] == likelihoods.index(max(likelihoods))
        assert hit == (document["answer"] == document["target"]) == document["scores"]["acc_mutual_info"]
        probabilities = torch.tensor(likelihoods, dtype=torch.float64).softmax(0)
        assert document["log_loss"] == pytest.approx(-math.log(probabilities[document["target"]]))
    assert outcome.metrics["acc_mutual_info"].better == "higher"
    assert outcome.metrics["log_loss"].samples == [document["log_loss"] for document in outcome.documents]


def test_documents_can_be_paired_between_variants(runner: TransformersRunner, checkpoint: Path, tmp_path: Path) -> None:
    runs = [measure(runner, checkpoint, tmp_path, Accuracy("continuation", 256, limit=4, batch=b)) for b in (1, 16)]
    one, other = (run.documents or [] for run in runs)
    assert [(doc["doc_id"], doc["doc_hash"], doc["target"]) for doc in one] == [
        (doc["doc_id"], doc["doc_hash"], doc["target"]) for doc in other
    ]
    assert len({doc["doc_hash"] for doc in one}) == 4


@pytest.mark.parametrize("task", ["needle", "needles", "tracking"])
def test_generated_answers_are_kept_with_their_targets(
    task: str, runner: TransformersRunner, checkpoint: Path, tmp_path: Path
) -> None:
    outcome = measure(runner, checkpoint, tmp_path, Accuracy(task, 512, limit=4))
    assert outcome.documents is not None
    metric = outcome.metrics["exact_match"]
    assert (metric.unit, metric.better, len(metric.samples)) == ("fraction", "higher", 4)
    assert outcome.context["tokens"] == {"min": 512, "median": 512, "max": 512}
    assert outcome.context["clusters"] == 4
    for document, hit in zip(outcome.documents, metric.samples, strict=True):
        assert VALUE.fullmatch(document["target"])
        assert document["answer"] == ["[invalid]", *re.findall(r"(?<!\d)\d{4}(?!\d)", document["generated"])][-1]
        assert hit == (document["answer"] == document["target"]) == document["scores"]["exact_match"]
        assert 0 <= document["depth"] < 1
        assert isinstance(document["cluster"], int)


class OracleRunner(TransformersRunner):
    """Knows the answers of some documents by heart: writes what it was given, then a newline."""

    def __init__(self, directory: Path, answers: dict[str, str]) -> None:
        super().__init__(directory)
        self.answers = answers

    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        text = bytes(tokens_BT[0].tolist()).decode()
        prompt = next(prompt for prompt in self.answers if text.startswith(prompt))
        said = text.removeprefix(prompt)
        following = (self.answers[prompt] + "\n")[len(said)]
        logits_BTV = torch.zeros(1, len(tokens_BT[0]), self.config.vocab_size)
        logits_BTV[0, -1, ord(following)] = 1.0
        return logits_BTV


def test_the_last_number_of_a_generated_answer_counts(checkpoint: Path, tmp_path: Path) -> None:
    documents = find_task("tracking_512", str(checkpoint)).tasks["tracking_512"].test_docs().to_list()[:4]
    right, names, wrong, none = documents
    said = {
        right["prompt"]: right["answer"],
        names["prompt"]: f" some 1111 {names['value']}",
        wrong["prompt"]: f" {wrong['value']} 12345 1111",
        none["prompt"]: " no number",
    }
    outcome = measure(OracleRunner(checkpoint, said), checkpoint, tmp_path, Accuracy("tracking", 512, limit=4))
    assert outcome.documents is not None
    assert outcome.metrics["exact_match"].samples == [1, 1, 0, 0]
    assert [document["answer"] for document in outcome.documents] == [
        right["value"],
        names["value"],
        "1111",
        "[invalid]",
    ]
    assert [document["generated"] for document in outcome.documents] == list(said.values())


def test_recall_is_scored_by_likelihood(runner: TransformersRunner, checkpoint: Path, tmp_path: Path) -> None:
    outcome = measure(runner, checkpoint, tmp_path, Accuracy("recall", 512, limit=4))
    assert outcome.documents is not None
    for document, hit in zip(outcome.documents, outcome.metrics["acc"].samples, strict=True):
        assert hit == (document["answer"] == document["target"])
        assert len(document["log_likelihoods"]) == 4
    assert outcome.context["tokens"]["min"] == 512


@pytest.mark.parametrize(("lengths", "beyond"), [([128, 256], False), ([128, 255], True)])
def test_lengths_beyond_training_are_marked(
    lengths: list[int], beyond: bool, runner: TransformersRunner, checkpoint: Path, tmp_path: Path
) -> None:
    trained = Path(shutil.copytree(checkpoint, tmp_path / "trained"))
    (trained / "training.json").write_text(json.dumps({"trained_lengths": lengths, "recipe": "some.yaml"}))
    outcome = measure(runner, trained, tmp_path, Accuracy("bits_per_byte", 256, limit=1))
    assert (outcome.context["trained_lengths"], outcome.context["extrapolates"]) == (lengths, beyond)


def test_a_checkpoint_that_does_not_say_is_not_marked(
    runner: TransformersRunner, checkpoint: Path, tmp_path: Path
) -> None:
    assert "extrapolates" not in measure(runner, checkpoint, tmp_path, Accuracy("bits_per_byte", 256, limit=1)).context
    (tmp_path / "training.json").write_text('{"trained_lengths": "long"}')
    with pytest.raises(UsageError, match=r"training\.json"):
        trained_lengths(str(tmp_path))


def test_a_prompt_that_would_be_cut_for_its_answer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    runner = TransformersRunner(checkpoint)
    runner.config = msgspec.structs.replace(runner.config, max_position_embeddings=519)
    with pytest.raises(UsageError, match=r"needs 512 tokens and 8 new ones; .* max_position_embeddings is 519"):
        measure(runner, checkpoint, tmp_path, Accuracy("needle", 512))


class NanRunner(TransformersRunner):
    """A backend whose last positions are not numbers."""

    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        logits_BTV = super().logits(tokens_BT, lengths_B)
        logits_BTV[:, -3:] = float("nan")
        return logits_BTV


def test_numbers_that_are_not_finite_are_incorrect_and_withheld(checkpoint: Path, tmp_path: Path) -> None:
    outcome = measure(NanRunner(checkpoint), checkpoint, tmp_path, Accuracy("continuation", 256, limit=3))
    assert outcome.status is Status.INCORRECT
    assert "3 of 3 documents" in outcome.reasons[0]
    assert all(metric.value is None and metric.withheld for metric in outcome.metrics.values())


def test_a_task_longer_than_the_model_is_refused(runner: TransformersRunner, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs 1024 tokens .* max_position_embeddings is 640"):
        measure(runner, checkpoint, tmp_path, Accuracy("bits_per_byte", 1024))


def test_a_checkpoint_without_tokenizer_is_refused(runner: TransformersRunner, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tokenizer"):
        measure(runner, Path("v32-layer"), tmp_path, Accuracy("bits_per_byte", 256))
