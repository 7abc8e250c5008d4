"""Accuracy of one task, by lm-eval itself: `simple_evaluate` over the runner, with every document's result kept.

Two variants answer the same documents, so their results can be compared pairwise: each document keeps its id and
hash, what was right, what was answered, its score, the log-likelihoods behind it and its log-loss.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from harness import corpus
from harness.errors import UsageError
from harness.measure.accuracy_catalog import FoundTask, find_task
from harness.measure.measurement import Bench, Measurement, Outcome
from harness.measure.prompts import load_tokenizer
from harness.records.metrics import METRICS, metric
from harness.records.record import Metric, Status
from harness.suite.cell import CellId
from harness.suite.schema import Accuracy, Workload

DOCUMENT_FACTS = ("cluster", "depth")
"""Columns of own tasks kept with a document's results: which documents share text, and where the fact stood."""


class TrainingReport(msgspec.Struct, frozen=True):
    """What is read of a checkpoint's training.json."""

    trained_lengths: list[int] = []


class AccuracyMeasurement(Measurement):
    """One lm-eval task (or group) on one variant; all the work is in `finish`."""

    timed: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("lm_eval", "lm_eval.tasks", "transformers.models.auto.tokenization_auto")

    def __init__(self, workload: Workload, bench: Bench, cell: CellId) -> None:
        """Load tokenizer and documents. Raises UsageError when there are none or the documents are too long."""
        super().__init__(workload, bench, cell)
        if not isinstance(workload, Accuracy):
            raise TypeError(f"not an accuracy workload: {workload}")
        self.options = workload
        self.tokenizer = load_tokenizer(bench.checkpoint)
        self.task = find_task(task_name(workload), bench.checkpoint, limit=workload.limit)
        _require_room(self.task, bench.runner.config.max_position_embeddings)

    def finish(self) -> Outcome:
        """Run the task; `incorrect` when a log-likelihood is not a finite number."""
        results, token_counts = self._evaluate()
        documents = [
            document
            for name, task in self.task.tasks.items()
            for document in documents_of(name, task, results["samples"][name], token_counts)
        ]
        context = self._context(results, documents)
        _require_length(self.task, context["tokens"])
        metrics = metrics_of(self.task, results, documents)
        broken = sum(not all(map(math.isfinite, document.get("log_likelihoods", ()))) for document in documents)
        if broken:
            reason = f"{broken} of {len(documents)} documents have a log-likelihood that is not a finite number"
            metrics = {
                name: msgspec.structs.replace(found, samples=[], withheld=reason) for name, found in metrics.items()
            }
            return Outcome(Status.INCORRECT, [reason], metrics, context, documents)
        return Outcome(metrics=metrics, context=context, documents=documents)

    def _evaluate(self) -> tuple[dict[str, Any], dict[tuple[str, int], int]]:
        """lm-eval's results, and the real tokens of every (task, document)."""
        from lm_eval import simple_evaluate

        from harness.measure.accuracy_lm import RunnerLM

        bench = self.bench
        decoding: Any = bench.parts["decoding"]
        model = RunnerLM(bench.runner, self.tokenizer, decoding, self.options.batch, bench.progress)
        results = simple_evaluate(
            model,
            tasks=self.task.objects,
            task_manager=self.task.manager,
            limit=self.options.limit,
            bootstrap_iters=0,  # standard errors follow from the stored samples
        )
        counts = {
            (name, sample["doc_id"]): max(model.count_tokens(arguments) for arguments in sample["arguments"])
            for name, samples in results["samples"].items()
            for sample in samples
        }
        return results, counts

    def _context(self, results: dict[str, Any], documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
        counts = [document["tokens"] for document in documents]
        facts: dict[str, Any] = {
            "task": self.task.name,
            "task_versions": {name: results["versions"][name] for name in self.task.tasks},
            "documents": len(documents),
            "tokens": {"min": min(counts), "median": statistics.median(counts), "max": max(counts)},
        }
        if self.task.own:
            facts["text_sha256"] = corpus.split("held_out").sha256
            facts["clusters"] = len({document.get("cluster", document["doc_id"]) for document in documents})
        lengths = trained_lengths(self.bench.checkpoint)
        if lengths:
            facts |= {"trained_lengths": lengths, "extrapolates": max(counts) > max(lengths)}
        return facts


def trained_lengths(checkpoint: str) -> list[int]:
    """The lengths in tokens that a checkpoint says it was trained at; empty when it does not say.

    Raises UsageError when its training.json is damaged.
    """
    path = Path(checkpoint) / "training.json"
    if not path.is_file():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingReport).trained_lengths
    except msgspec.DecodeError as error:
        raise UsageError(f"is not the report of a training: {error}", str(path)) from None


def task_name(workload: Accuracy) -> str:
    """The lm-eval task of a concrete workload: `NAME`, or `NAME_LENGTH` when it has a length."""
    return f"{workload.tasks}_{workload.length}" if workload.length else str(workload.tasks)


def documents_of(
    name: str, task: Any, samples: Sequence[dict[str, Any]], token_counts: dict[tuple[str, int], int]
) -> list[dict[str, Any]]:
    """One plain dict per document (and per answer filter, for tasks that have several)."""
    return [
        {
            "task": name,
            "doc_id": sample["doc_id"],
            "doc_hash": sample["doc_hash"],
            "filter": sample["filter"],
            "tokens": token_counts[name, sample["doc_id"]],
            "scores": {metric: _score(task, metric, sample[metric]) for metric in sample["metrics"]},
            **{key: sample["doc"][key] for key in DOCUMENT_FACTS if key in sample["doc"]},
            **_answer(task.OUTPUT_TYPE, sample),
        }
        for sample in samples
    ]


def _answer(output_type: str, sample: dict[str, Any]) -> dict[str, Any]:
    """Target, answer, log-likelihoods (nats) and log-loss (nats): what the task's output type has of them.

    A generated answer is there as the task's filter leaves it, and as it was `generated`.
    """
    responses = sample["filtered_resps"]
    if output_type == "generate_until":
        return {"target": sample["target"], "answer": responses[0], "generated": sample["resps"][0][0]}
    if output_type == "loglikelihood_rolling":
        return {"log_likelihoods": responses, "log_loss": -responses[0]}
    values = [value for value, _ in responses]
    if output_type == "loglikelihood":
        return {"answer": bool(responses[0][1]), "log_likelihoods": values, "log_loss": -values[0]}
    if "acc_mutual_info" in sample["metrics"]:
        values = _mutual_information(values)
    answer = max(range(len(values)), key=values.__getitem__)
    loss = _choice_loss(values, sample["target"])
    return {"target": sample["target"], "answer": answer, "log_likelihoods": values, "log_loss": loss}


def _mutual_information(log_likelihoods: Sequence[float]) -> list[float]:
    """What the context adds to every answer: lm-eval lists the answers after it first, then those after nothing."""
    answers = len(log_likelihoods) // 2
    alone = log_likelihoods[answers:]
    return [after - before for after, before in zip(log_likelihoods[:answers], alone, strict=True)]


def _choice_loss(log_likelihoods: Sequence[float], target: Any) -> float | None:
    """-log of the softmax over the choices at the right one; None when the task has no single right place."""
    if not isinstance(target, int) or not 0 <= target < len(log_likelihoods):
        return None
    highest = max(log_likelihoods)
    total = highest + math.log(sum(math.exp(value - highest) for value in log_likelihoods))
    return total - log_likelihoods[target]


def _score(task: Any, metric: str, value: Any) -> float | None:
    """A document's own value of a metric: the number itself, or the task's aggregation over this document alone."""
    if isinstance(value, bool | int | float):
        return float(value)
    try:
        return float(task.aggregation()[metric]([value]))
    except (TypeError, ValueError, KeyError, ZeroDivisionError):
        return None  # a metric of the whole set only, such as F1


def metrics_of(task: FoundTask, results: dict[str, Any], documents: Sequence[dict[str, Any]]) -> dict[str, Metric]:
    """lm-eval's metrics of the task (of each task, when it is a tag of several), and the choices' log-loss.

    A metric that is the mean of its documents' scores keeps them as samples; any other keeps lm-eval's figure.
    """
    named = [task.name] if task.name in results["results"] else list(task.tasks)
    found = {}
    for name in named:
        prefix = "" if len(named) == 1 else f"{name}."
        directions = results["higher_is_better"].get(name, {})
        for metric_name, filter_name, value in _reported(results["results"][name]):
            own = [document for document in documents if (document["task"], document["filter"]) == (name, filter_name)]
            label = metric_name if filter_name == "none" else f"{metric_name}[{filter_name}]"
            samples = _samples(own, metric_name, value)
            found[prefix + label] = _metric(metric_name, samples, directions.get(metric_name))
    losses = [document["log_loss"] for document in documents if document.get("log_loss") is not None]
    if losses and len(losses) == len(documents) and "target" in documents[0]:
        found["log_loss"] = metric("log_loss", losses)
    return found


def _reported(figures: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(metric, filter, value) of what lm-eval reports under keys like `acc,none`; standard errors left out."""
    for key, value in figures.items():
        name, comma, filter_name = key.partition(",")
        if comma and not name.endswith("_stderr") and isinstance(value, int | float):
            yield name, filter_name, float(value)


def _samples(documents: Sequence[dict[str, Any]], name: str, value: float) -> list[float]:
    scores = [document["scores"].get(name) for document in documents]
    if not scores or None in scores or not math.isclose(statistics.fmean(scores), value, rel_tol=1e-9, abs_tol=1e-12):
        return [value]
    return scores


def _metric(name: str, samples: list[float], higher_is_better: bool | None) -> Metric:
    """A metric of the project's table, or one that only lm-eval knows: without a unit, in its own direction."""
    if name in METRICS:
        return metric(name, samples)
    better = "neither" if higher_is_better is None else "higher" if higher_is_better else "lower"
    return Metric("", samples, "mean", better)


def _require_room(task: FoundTask, maximum: int) -> None:
    """Refuse documents of a promised length that the model would have to see cut."""
    if task.length is None:
        return
    new_tokens = max((_new_tokens(leaf) for leaf in task.tasks.values()), default=0)
    if task.length + max(new_tokens, 1) > maximum:
        more = f"{new_tokens} new ones" if new_tokens else "the token before them"
        raise UsageError(
            f"task {task.name!r} needs {task.length} tokens and {more}; the model's max_position_embeddings is "
            f"{maximum}"
        )


def _new_tokens(task: Any) -> int:
    """Tokens that a task lets a model generate; none for the scored ones."""
    return int((task.config.generation_kwargs or {}).get("max_gen_toks", 0))


def _require_length(task: FoundTask, tokens: dict[str, float]) -> None:
    """The promise of a task's name: nominal and real token counts are the same for every document."""
    if task.length and not tokens["min"] == tokens["max"] == task.length:
        raise RuntimeError(f"task {task.name} promises {task.length} tokens; its documents have {tokens}")
