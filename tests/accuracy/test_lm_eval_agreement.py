"""The same answers as lm-eval's own `hf` model on the same checkpoint, in FP32, dense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance

from harness.errors import UsageError
from harness.measure.accuracy_catalog import find_task
from harness.measure.accuracy_lm import RunnerLM
from tests.accuracy.conftest import MAX_LENGTH, PLAIN, TransformersRunner

TEXTS = [
    "def f(x):\n    return x + 1\n",
    "import os\n",
    "class A:\n    pass\n\n\nclass B(A):\n    x = 1\n",
    "é = 'ü'\n",
]


@pytest.fixture(scope="module")
def peer(checkpoint: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    # A runner reads the last token too, so it takes one token of context less than `hf` when it truncates.
    return HFLM(str(checkpoint), dtype="float32", device="cpu", batch_size=4, max_length=MAX_LENGTH - 1)


@pytest.fixture
def model(runner: TransformersRunner, tokenizer: Any) -> RunnerLM:
    return RunnerLM(runner, tokenizer, PLAIN, batch=3)


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, argument, 0) for argument in arguments]


@pytest.mark.parametrize("name", ["continuation_256", "bits_per_byte_256", "recall_512", "needle_512"])
def test_tasks(name: str, model: RunnerLM, peer: Any, checkpoint: Path) -> None:
    task = find_task(name, str(checkpoint))
    ours, theirs = (
        simple_evaluate(lm, tasks=task.objects, task_manager=task.manager, limit=4, bootstrap_iters=0)["samples"][name]
        for lm in (model, peer)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["doc_hash"] == other["doc_hash"]
        if name.startswith("needle"):
            assert one["resps"] == other["resps"]
            assert (one["exact_match"], one["target"]) == (other["exact_match"], other["target"])
        elif name.startswith(("continuation", "recall")):
            likelihoods, expected = ([value for value, _ in sample["filtered_resps"]] for sample in (one, other))
            assert likelihoods.index(max(likelihoods)) == expected.index(max(expected))
            assert likelihoods == pytest.approx(expected, abs=1e-3)
            assert [one[metric] for metric in one["metrics"]] == [other[metric] for metric in one["metrics"]]
        else:
            assert one["filtered_resps"] == pytest.approx(other["filtered_resps"], abs=1e-3)


@pytest.mark.parametrize("context", ["", *TEXTS, "trailing space ", "x" * (MAX_LENGTH + 100)])
def test_loglikelihood(context: str, model: RunnerLM, peer: Any) -> None:
    asked = requests("loglikelihood", *((context, continuation) for continuation in TEXTS))
    for (value, greedy), (expected, expected_greedy) in zip(
        model.loglikelihood(asked), peer.loglikelihood(asked, disable_tqdm=True), strict=True
    ):
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy == expected_greedy


def test_greedy_is_true_for_the_argmax_continuation_only(model: RunnerLM, runner: TransformersRunner) -> None:
    characters = [chr(code) for code in range(128)]
    seen = 0
    for context in ["a", "b", "cd", *TEXTS]:
        best = int(runner.logits(torch.tensor([list(context.encode())]))[0, -1].argmax())
        answers = model.loglikelihood(requests("loglikelihood", *((context, character) for character in characters)))
        # Trailing whitespace moves into the continuation, so contexts that end in it prove nothing here.
        if context == context.rstrip():
            assert [code for code, (_, greedy) in enumerate(answers) if greedy] == [best] * (best < 128)
            seen += best < 128
    assert seen


@pytest.mark.parametrize("length", [1, 50, MAX_LENGTH - 1, MAX_LENGTH, 2 * MAX_LENGTH + 7])
def test_rolling_windows(length: int, model: RunnerLM, peer: Any) -> None:
    text = ("some text 0123 " * length)[:length]
    asked = requests("loglikelihood_rolling", (text,), ("short",))
    assert model.loglikelihood_rolling(asked) == pytest.approx(
        peer.loglikelihood_rolling(asked, disable_tqdm=True), abs=1e-3
    )


def test_generate_until(model: RunnerLM, peer: Any) -> None:
    options = [{"until": ["\n"], "max_gen_toks": 5}, {"until": ["zz", "q"], "max_gen_toks": 9}]
    asked = requests("generate_until", *((text, dict(option)) for text in TEXTS for option in options))
    assert model.generate_until(asked) == peer.generate_until(asked, disable_tqdm=True)


def test_batches_do_not_change_answers(runner: TransformersRunner, tokenizer: Any) -> None:
    scored = requests("loglikelihood", *((text * n, more) for n, text in enumerate(TEXTS, 1) for more in TEXTS))
    generated = requests("generate_until", *((text * 3, {"until": [], "max_gen_toks": 4}) for text in TEXTS))
    alone, together = (RunnerLM(runner, tokenizer, PLAIN, batch=batch) for batch in (1, 16))
    values, expected = ([value for value, _ in model.loglikelihood(scored)] for model in (alone, together))
    assert values == pytest.approx(expected, abs=1e-4)
    assert alone.generate_until(generated) == together.generate_until(generated)


def test_stop_strings_cut_the_answer(model: RunnerLM) -> None:
    ask = lambda until: model.generate_until(  # noqa: E731
        requests("generate_until", (TEXTS[0], {"until": until, "max_gen_toks": 12}))
    )[0]
    whole = ask([])
    assert len(whole) > 4
    assert ask([whole[2:4]]) == whole[: whole.index(whole[2:4])]
    assert ask(["not in there"]) == whole


def test_long_prompts_keep_their_end(model: RunnerLM) -> None:
    options = {"until": [], "max_gen_toks": 3}
    end = TEXTS[2] * 40
    kept = end[-(MAX_LENGTH - 3) :]
    long, short = model.generate_until(requests("generate_until", ("z" * 500 + end, options), (kept, options)))
    assert long == short


def test_sampling_and_impossible_lengths_are_refused(model: RunnerLM) -> None:
    with pytest.raises(UsageError, match="sampling"):
        model.generate_until(requests("generate_until", ("a", {"do_sample": True, "temperature": 0.7})))
    with pytest.raises(UsageError, match=f"{MAX_LENGTH} new tokens"):
        model.generate_until(requests("generate_until", ("a", {"max_gen_toks": MAX_LENGTH})))
    with pytest.raises(UsageError, match="a continuation of 700 tokens"):
        model.loglikelihood(requests("loglikelihood", ("a", "b" * 700)))
