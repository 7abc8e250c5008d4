"""Batches: real text with facts and questions, exact lengths, every question answerable from what stands before it."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.retrieval import NAMES
from harness.train.data import Batches, training_text, training_tokenizer
from harness.train.documents import DocumentMaker, Kind, tokenize
from harness.train.recipe import Documents, load_recipe
from harness.train.tokenizer import BOS_ID

MIXED = "documents: {facts: 6, share: [0.3, 0.9], chains: 0.5, plain: 0.2}"


@pytest.fixture(scope="module")
def maker() -> DocumentMaker:
    tokenizer = training_tokenizer(600)
    return DocumentMaker(tokenize(training_text(), tokenizer), tokenizer)


def test_batches_follow_seed_stage_and_step(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("kind: dense,", f"kind: dense, {MIXED},"))
    tokenizer = training_tokenizer(600)
    recipe = load_recipe(recipe_file).recipe
    batches = Batches(recipe, tokenizer)
    batch = batches.get(0, 3)
    assert batch.inputs_BT.shape == batch.targets_BT.shape == batch.kinds_BT.shape == (2, 32)
    assert torch.equal(batch.inputs_BT[:, 1:], batch.targets_BT[:, :-1])
    assert torch.equal(Batches(recipe, tokenizer).get(0, 3).inputs_BT, batch.inputs_BT)
    other = Batches(load_recipe(recipe_file, seed=1).recipe, tokenizer).get(0, 3)
    for unlike in (batches.get(0, 4), batches.get(1, 3), other):
        assert not torch.equal(unlike.inputs_BT, batch.inputs_BT)
    starts = torch.cat([batches.get(0, step).inputs_BT[:, 0] == BOS_ID for step in range(100)])
    assert 60 < int(starts.sum()) < 140
    assert int(torch.cat([batches.get(0, step).targets_BT for step in range(100)]).min()) > BOS_ID


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    length=st.integers(8, 300),
    facts=st.integers(1, 24),
    chains=st.sampled_from([0.0, 1.0]),
)
def test_documents_have_their_length_and_kinds(
    maker: DocumentMaker, seed: int, length: int, facts: int, chains: float
) -> None:
    tokens, kinds = maker.with_facts(random.Random(seed), length, Documents(facts, (0.1, 1.0), chains))
    assert tokens.shape == kinds.shape == (length,)
    assert set(kinds.tolist()) <= set(Kind)


@pytest.mark.parametrize("chains", [0.0, 1.0])
def test_every_answer_follows_from_facts_before_it(maker: DocumentMaker, chains: float) -> None:
    """Read the documents again as text, as somebody would who knows nothing of how they were made."""
    asked = 0
    for seed in range(60):
        tokens, _ = maker.with_facts(random.Random(seed), 400, Documents(8, (0.4, 0.8), chains))
        known: dict[str, str] = {}
        names = "|".join(NAMES)
        for line in maker.tokenizer.decode(tokens.tolist()).splitlines():
            if fact := re.fullmatch(rf"# ({names}) (\w+)", line):
                known[fact[1]] = fact[2]
            elif answered := re.fullmatch(rf"\? ({names})((?: \w+)+)", line):
                link, chain = answered[1], answered[2].split()
                for step in chain:
                    assert known[link] == step
                    link = step
                assert re.fullmatch(r"\d{4}", chain[-1])
                asked += 1
    assert asked > 300


def test_answers_are_marked_and_what_nobody_can_know_is_not_asked(maker: DocumentMaker) -> None:
    tokens, kinds = maker.with_facts(random.Random(1), 200, Documents(3, (0.5, 0.9)))
    text = maker.tokenizer.decode([int(t) for t, kind in zip(tokens, kinds, strict=True) if kind == Kind.ANSWER])
    assert text
    assert set(re.findall(r"\d{4}", text)) == set(text.split())
    hidden = maker.tokenizer.decode([int(t) for t, k in zip(tokens, kinds, strict=True) if k == Kind.UNPREDICTABLE])
    assert all(
        word in NAMES or word == "?" or re.fullmatch(r"\d{4}", word) for word in hidden.replace("?", " ? ").split()
    )


def test_text_is_real_text(maker: DocumentMaker) -> None:
    tokens, kinds = maker.plain(random.Random(0), 50)
    assert maker.tokenizer.decode(tokens.tolist()) in training_text()
    assert set(kinds.tolist()) == {Kind.TEXT}
