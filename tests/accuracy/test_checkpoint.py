"""The committed checkpoint: what it can do, and that transformers and lm-eval's own model answer the same on it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate

from harness import corpus, load_runner
from harness.contract.registry import Registry
from harness.measure.accuracy_catalog import find_task
from harness.measure.accuracy_lm import RunnerLM
from harness.train.baseline import TrigramModel

DIRECTORY = Path(__file__).parents[2] / "suites" / "checkpoints" / "reference"
CHANCE = 0.25


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DIRECTORY)


@pytest.fixture(scope="module")
def trigrams() -> TrigramModel:
    return TrigramModel.fit(corpus.split("train").text.encode())


def evaluate(model: Any, name: str, limit: int) -> list[dict[str, Any]]:
    task = find_task(name, str(DIRECTORY))
    results = simple_evaluate(model, tasks=task.objects, task_manager=task.manager, limit=limit, bootstrap_iters=0)
    samples: list[dict[str, Any]] = results["samples"][name]
    return samples


def language_model(tokenizer: Any, selector: str, engine: str = "native", form: str | None = None) -> RunnerLM:
    """The harness's own way to a score: an engine's runner behind lm-eval's interface."""
    runner = load_runner(DIRECTORY, engine=engine, form=form, selector=selector, precision="fp32")
    return RunnerLM(runner, tokenizer, Registry(entry_points=False).option("decoding", "plain").load(), batch=4)


def peer(tokenizer: Any, selector: str) -> Any:
    """lm-eval's own model over transformers' own. Dense: an index_topk beyond every length selects every key."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    choice = {"index_topk": 65536} if selector == "dense" else {}
    model = AutoModelForCausalLM.from_pretrained(DIRECTORY, dtype=torch.float32, **choice)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)


def test_it_is_small_plain_and_says_what_made_it() -> None:
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) < 12_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"} <= {
        path.name for path in DIRECTORY.iterdir()
    }
    report = json.loads((DIRECTORY / "training.json").read_text())
    assert report["cost"]["cpu_minutes"] > 0
    assert report["trained_lengths"]
    figures = report["figures"]["bits_per_byte"]
    for length, trigram in figures["trigram"].items():
        assert figures["dense"][length] < trigram - 0.2
        assert figures["dsa"][length] < trigram - 0.2


def test_transformers_loads_it_without_remote_code(tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(DIRECTORY)
    assert type(model).__name__ == "DeepseekV32ForCausalLM"
    assert model.config.max_position_embeddings >= 32_768
    prompt = tokenizer("import os\n\n\ndef main(", return_tensors="pt")
    text = tokenizer.decode(model.generate(**prompt, max_new_tokens=8)[0])
    assert text.startswith("import os")


@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_it_predicts_better_than_trigrams(selector: str, tokenizer: Any, trigrams: TrigramModel) -> None:
    samples = evaluate(language_model(tokenizer, selector, form="mqa"), "bits_per_byte_512", limit=24)
    texts = [sample["doc"]["text"].encode() for sample in samples]
    nats = [-sample["filtered_resps"][0] for sample in samples]
    ours = sum(one / math.log(2) / len(text) for one, text in zip(nats, texts, strict=True)) / len(texts)
    assert ours < trigrams.bits_per_byte(texts) - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_it_chooses_continuations_above_chance(selector: str, tokenizer: Any) -> None:
    samples = evaluate(language_model(tokenizer, selector, form="mha"), "continuation_256", limit=192)
    hits = sum(sample["acc_mutual_info"] for sample in samples)
    three_deviations = 3 * math.sqrt(len(samples) * CHANCE * (1 - CHANCE))
    assert hits > CHANCE * len(samples) + three_deviations


@pytest.mark.parametrize("selector", ["dense", "dsa"])
@pytest.mark.parametrize("task", ["needle_512", "needles_512", "tracking_512"])
def test_it_finds_what_stands_in_its_context(task: str, selector: str, tokenizer: Any) -> None:
    samples = evaluate(language_model(tokenizer, selector, form="auto"), task, limit=16)
    hits = sum(sample["exact_match"] for sample in samples)
    assert hits >= 0.75 * len(samples)


GENERATED = ["needle_512", "tracking_512"]
SCORED = ["bits_per_byte_512", "recall_512"]


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["dense", "dsa"])
@pytest.mark.parametrize("name", GENERATED + SCORED)
def test_the_same_answers_as_lm_evals_own_model(name: str, selector: str, tokenizer: Any) -> None:
    theirs = evaluate(peer(tokenizer, selector), name, limit=12)
    for engine in ("native", "hf"):
        ours = evaluate(language_model(tokenizer, selector, engine), name, limit=12)
        assert [sample["doc_hash"] for sample in ours] == [sample["doc_hash"] for sample in theirs]
        compare: Callable[..., None] = _same_text if name in GENERATED else _same_likelihoods
        for one, other in zip(ours, theirs, strict=True):
            compare(one, other, selector)


def _same_text(one: dict[str, Any], other: dict[str, Any], selector: str) -> None:
    assert one["resps"] == other["resps"]
    assert one["exact_match"] == other["exact_match"]


def _same_likelihoods(one: dict[str, Any], other: dict[str, Any], selector: str) -> None:
    """Sums over tokens: under DSA a tie in index scores swaps a key now and then, which moves a token a little."""
    likelihoods, expected = (_likelihoods(sample) for sample in (one, other))
    assert likelihoods == pytest.approx(expected, abs=1e-3 if selector == "dense" else 5e-2)
    assert likelihoods.index(max(likelihoods)) == expected.index(max(expected))


def _likelihoods(sample: dict[str, Any]) -> list[float]:
    return [response[0] if isinstance(response, tuple) else response for response in sample["filtered_resps"]]
