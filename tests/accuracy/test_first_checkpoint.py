"""The committed checkpoint: what it can do, and that lm-eval's own `hf` model reaches the same answers on it."""

from __future__ import annotations

import json
import math
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

DIRECTORY = Path(__file__).parents[2] / "suites" / "checkpoints" / "first"
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


def native(tokenizer: Any, **choices: str) -> RunnerLM:
    runner = load_runner(str(DIRECTORY), engine="native", precision="fp32", **choices)
    return RunnerLM(runner, tokenizer, Registry(entry_points=False).option("decoding", "plain").load())


def test_it_is_small_plain_and_says_what_made_it() -> None:
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) < 12_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"} <= {
        path.name for path in DIRECTORY.iterdir()
    }
    report = json.loads((DIRECTORY / "training.json").read_text())
    assert report["cost"]["cpu_minutes"] <= 30
    figures = report["figures"]["bits_per_byte"]
    for length, trigram in figures["trigram"].items():
        assert figures["dense"][length] < trigram - 0.2
        assert figures["dsa"][length] < trigram - 0.2


def test_transformers_loads_it_without_remote_code(tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(DIRECTORY)
    assert type(model).__name__ == "DeepseekV32ForCausalLM"
    assert model.config.max_position_embeddings >= 8192
    prompt = tokenizer("import os\n\n\ndef main(", return_tensors="pt")
    text = tokenizer.decode(model.generate(**prompt, max_new_tokens=8)[0])
    assert text.startswith("import os")


@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_it_predicts_better_than_trigrams(selector: str, tokenizer: Any, trigrams: TrigramModel) -> None:
    samples = evaluate(native(tokenizer, form="mqa", selector=selector), "bits_per_byte_512", limit=24)
    ours = sum(-sample["filtered_resps"][0] for sample in samples) / math.log(2) / 512 / len(samples)
    counted = trigrams.bits_per_byte([sample["doc"]["text"].encode() for sample in samples])
    assert ours < counted - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_it_chooses_continuations_above_chance(selector: str, tokenizer: Any) -> None:
    samples = evaluate(native(tokenizer, form="mha", selector=selector), "continuation_256", limit=192)
    hits = sum(sample["acc_mutual_info"] for sample in samples)
    three_deviations = 3 * math.sqrt(len(samples) * CHANCE * (1 - CHANCE))
    assert hits > CHANCE * len(samples) + three_deviations


@pytest.mark.slow
@pytest.mark.parametrize("name", ["continuation_256", "bits_per_byte_512"])
def test_the_same_answers_as_lm_evals_own_model(name: str, tokenizer: Any) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    # Dense: with index_topk beyond every length the indexer of transformers' model selects every key.
    model = AutoModelForCausalLM.from_pretrained(DIRECTORY, index_topk=8192, dtype=torch.float32)
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    ours, theirs = (evaluate(lm, name, limit=48) for lm in (native(tokenizer, form="mqa", selector="dense"), peer))
    for one, other in zip(ours, theirs, strict=True):
        likelihoods, expected = (_likelihoods(sample) for sample in (one, other))
        assert likelihoods == pytest.approx(expected, abs=1e-3)
        assert likelihoods.index(max(likelihoods)) == expected.index(max(expected))


def _likelihoods(sample: dict[str, Any]) -> list[float]:
    return [response[0] if isinstance(response, tuple) else response for response in sample["filtered_resps"]]
