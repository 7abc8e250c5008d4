"""Documents of the retrieval tasks: exact lengths with every kind of tokenizer, real text, facts at all depths."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import corpus
from harness.errors import UsageError
from harness.measure import haystack, retrieval_tasks
from harness.measure.encoder import Encoder
from harness.measure.haystack import Haystack
from harness.retrieval import NAMES, Fact, answer, question
from tests.support import tokenizers

TASKS: dict[str, Callable[..., Any]] = {
    "needle": retrieval_tasks.needle,
    "needles": retrieval_tasks.needles,
    "tracking": retrieval_tasks.tracking,
    "recall": retrieval_tasks.recall,
}
FACTS = {"needle": 1, "needles": 20, "tracking": 16, "recall": 20}
FACT_LINE = re.compile(r"^# ([a-z]+) (\d{4}|[a-z]+)$", re.MULTILINE)


TEXT = corpus.split("held_out").text[:300_000]
"""Enough for every test here; all of it takes each tokenizer many seconds."""


@pytest.fixture(scope="module", autouse=True)
def less_text() -> Iterator[None]:
    held_out = msgspec.structs.replace(corpus.split("held_out"), text=TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(haystack, "split", lambda name: held_out)
        yield


@pytest.fixture(scope="module", params=["byte", "merging", "prefixing"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    write = getattr(tokenizers, f"{request.param}_tokenizer")
    return str(write(tmp_path_factory.mktemp(request.param), 100_000))


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tokenizers.byte_tokenizer(tmp_path_factory.mktemp("bytewise"), 100_000))


def make(name: str, length: int, tokenizer: str, documents: int = 24, **more: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = list(TASKS[name](length, documents, pretrained=tokenizer, **more)["test"])
    assert len(made) == documents
    return made


def facts_of(document: dict[str, Any]) -> list[Fact]:
    """The facts of a document; a comment of the text can have their form, but not both a name and a value."""
    found = FACT_LINE.findall(document["prompt"])
    return [Fact(name, value) for name, value in found if name in NAMES and (value.isdigit() or value in NAMES)]


def text_of(document: dict[str, Any]) -> str:
    """A document without its facts and its question."""
    body = document["prompt"]
    for fact in facts_of(document):
        assert body.count(f"\n{fact.line}") == 1
        body = body.replace(f"\n{fact.line}", "\n")
    return body.rpartition("? ")[0]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("length", [512, 1024])
def test_nominal_and_real_lengths_are_equal(name: str, length: int, tokenizer: str) -> None:
    encoder = Encoder.of(tokenizer)
    for document in make(name, length, tokenizer, documents=8):
        for end in document.get("choices", [""]):
            assert encoder.count(document["prompt"] + end) == length


@pytest.mark.parametrize("name", TASKS)
def test_all_but_facts_and_question_is_consecutive_held_out_text(name: str, tokenizer: str) -> None:
    for document in make(name, 512, tokenizer, documents=12):
        body = text_of(document)
        assert body in TEXT
        assert body.endswith("\n")
        assert len(body) > 100


@pytest.mark.parametrize("name", TASKS)
def test_the_question_is_answered_by_the_document(name: str, tokenizer: str) -> None:
    for document in make(name, 512, tokenizer, documents=12):
        facts = facts_of(document)
        assert len(facts) == FACTS[name]
        asked = document["prompt"].rpartition("? ")[2]
        assert document["prompt"].endswith(question(asked))
        assert document["answer"] == answer(asked, facts)
        assert document["answer"].endswith(document["value"])
        assert document["answer"].count(" ") == (4 if name == "tracking" else 1)


def test_choices_are_the_right_value_and_others_of_the_document(bytewise: str) -> None:
    documents = make("recall", 1024, bytewise, documents=200)
    golds = [document["gold"] for document in documents]
    assert all(golds.count(place) > 25 for place in range(4))
    for document in documents:
        assert document["choices"][document["gold"]] == document["answer"]
        assert len(set(document["choices"])) == 4
        assert {choice.strip() for choice in document["choices"]} <= {fact.value for fact in facts_of(document)}


@pytest.mark.parametrize("documents", [10, 100])
def test_any_beginning_of_the_documents_covers_all_depths(documents: int, bytewise: str) -> None:
    depths = sorted(document["depth"] for document in make("needle", 1024, bytewise, documents=100)[:documents])
    gaps = [later - earlier for earlier, later in zip([0.0, *depths], [*depths, 1.0], strict=True)]
    assert max(gaps) < 3 / documents + 0.1  # a tenth: facts stand between lines only


def test_names_and_places_say_nothing_about_what_is_asked(bytewise: str) -> None:
    places = []
    for document in make("needles", 1024, bytewise, documents=200):
        asked = document["prompt"].rpartition("? ")[2]
        places.append([fact.name for fact in facts_of(document)].index(asked))
    assert all(places.count(place) < 25 for place in range(20))
    assert len(set(places)) == 20


def test_documents_follow_from_the_seed_and_differ(bytewise: str) -> None:
    once, again, other = (make("needles", 512, bytewise, seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert {document["prompt"] for document in once}.isdisjoint(document["prompt"] for document in other)
    assert len({document["prompt"] for document in once}) == 24
    assert make("needles", 512, bytewise, documents=8) != once[:8]  # blocks follow from how many documents there are


def test_documents_of_different_clusters_share_no_text(bytewise: str) -> None:
    spans: dict[int, tuple[int, int]] = {}
    documents = make("needle", 4096, bytewise, documents=200)
    assert 60 < len({document["cluster"] for document in documents}) < 75  # there are 73 documents in the text
    for document in documents:
        body = text_of(document)
        start = TEXT.index(body)
        first, last = spans.get(document["cluster"], (start, start))
        spans[document["cluster"]] = (min(first, start), max(last, start + len(body)))
    assert all(last <= first for (_, last), (first, _) in pairwise(sorted(spans.values())))


def test_short_documents_have_a_place_of_their_own(bytewise: str) -> None:
    clusters = [document["cluster"] for document in make("needle", 512, bytewise, documents=60)]
    assert sorted(clusters) == list(range(60))
    assert clusters != sorted(clusters)


def test_blocks_part_the_text(bytewise: str) -> None:
    text = Haystack.of(bytewise)
    assert "".join(text.lines) == TEXT[: TEXT.rindex("\n") + 1]
    blocks = text.blocks(7)
    assert [block.start for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
    assert (blocks[0].start, blocks[-1].stop) == (0, len(text.lines))
    sizes = [text.starts[block.stop] - text.starts[block.start] for block in blocks]
    assert max(sizes) - min(sizes) < 500


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Haystack.of.cache_clear()
    yield tmp_path
    Haystack.of.cache_clear()


def test_lines_are_counted_once_for_all_processes(
    bytewise: str, nothing_kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Haystack.of(bytewise)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "counts", lambda *_: pytest.fail("counted again"))
        Haystack.of.cache_clear()
        assert Haystack.of(bytewise) == counted


def test_other_text_and_other_tokenizers_are_counted_anew(
    tokenizer: str, bytewise: str, nothing_kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (tokenizer, bytewise):
        text = Haystack.of(name)
        assert list(text.starts[1:4]) == [sum(Encoder.of(name).counts(text.lines[:line])) for line in (1, 2, 3)]
    other = msgspec.structs.replace(corpus.split("held_out"), text=TEXT.replace("e", "ee"))
    monkeypatch.setattr(haystack, "split", lambda name: other)
    Haystack.of.cache_clear()
    assert Haystack.of(bytewise).tokens == len("".join(Haystack.of(bytewise).lines))


def test_lines_before_are_the_fewest_that_are_enough(bytewise: str) -> None:
    text = Haystack.of(bytewise)
    encoder = Encoder.of(bytewise)
    rng = random.Random(0)
    for block in text.blocks(5):
        end = text.end(rng, block, 900)
        assert end is not None
        lines = text.before(end, 900)
        tokens = encoder.count("".join(text.lines[line] for line in lines))
        assert 900 <= tokens < 900 + encoder.count(text.lines[lines.start])
        assert block.start <= lines.start
        assert text.end(rng, block, 10**7) is None


def test_what_does_not_fit_is_refused(bytewise: str) -> None:
    with pytest.raises(UsageError, match="needles documents of 128 tokens do not fit"):
        make("needles", 128, bytewise)
    with pytest.raises(UsageError, match="needle documents of 3000000 tokens do not fit"):
        make("needle", 3_000_000, bytewise)
    with pytest.raises(UsageError, match="give the model's `tokenizer`"):
        retrieval_tasks.needle(512)
