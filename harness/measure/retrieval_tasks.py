"""Documents of the retrieval tasks: facts set into held-out text at random lines, and a question at the end.

The format is that of `harness.retrieval`. A prompt, question included, is exactly `length` tokens of the model's own
tokenizer; all of it but the facts and the question is consecutive real text. The text is parted into blocks that have
room for a document, at most one for every document: where there are fewer blocks than documents, several documents
stand in the same text, each with its own facts, and share their `cluster`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import UsageError
from harness.measure.encoder import Encoder
from harness.measure.haystack import Haystack
from harness.retrieval import VALUE, Fact, answer, draw_chains, draw_facts, question, shuffled_together

if TYPE_CHECKING:
    import datasets

DOCUMENTS = 500
KEYS = 20
"""Facts of a document with several: the one that is asked for, and distractors of the same form."""
CHAINS, LINKS = 4, 3
"""Chains of a tracking document, and facts of each beyond the one with its value."""
CHOICES = 4
ROOM = 9 / 8
"""Least size of a block over that of a document: lines are not cut to fit, and documents of one block should differ."""
ATTEMPTS = 200
"""Draws per document before giving up: with merging tokenizers some cuts do not re-encode to the same length."""
ADJUSTMENTS = 3
"""Takes of more text, where lines have fewer tokens together than alone and a document came out short."""
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Quiz:
    """What is set into the text of a document: facts in their order, where they stand, and what is asked."""

    facts: list[Fact]
    asked: str
    """The name in the question."""
    depths: list[float]
    """Ascending, one a fact: 0 is the first line boundary of the text, 1 the last, right before the question."""
    choices: list[str] = field(default_factory=list)
    """Answers to choose from; empty when the answer is generated."""

    @property
    def answer(self) -> str:
        """What follows the question."""
        return answer(self.asked, self.facts)

    @property
    def value(self) -> str:
        """The value that the answer leads to."""
        return VALUE.findall(self.answer)[-1]

    @property
    def chosen(self) -> str:
        """The right choice, which counts to the promised length; nothing when the answer is generated."""
        return self.answer if self.choices else ""

    @property
    def end(self) -> str:
        """What the promised length ends with."""
        return question(self.asked) + self.chosen


Draw: TypeAlias = Callable[[random.Random, float], Quiz]
"""A document's quiz from its random numbers and its place (0 to 1) in a sequence that covers all depths evenly."""


def needle(length: int, documents: int = DOCUMENTS, seed: int = 0, **more: Any) -> dict[str, datasets.Dataset]:
    """Documents with one fact, which is asked for; its depths cover the document evenly."""
    return _dataset(_needle, Maker.of("needle", length, seed, **more), documents)


def needles(length: int, documents: int = DOCUMENTS, seed: int = 0, **more: Any) -> dict[str, datasets.Dataset]:
    """Documents with `KEYS` facts of the same form, one of which is asked for."""
    return _dataset(_needles, Maker.of("needles", length, seed, **more), documents)


def tracking(length: int, documents: int = DOCUMENTS, seed: int = 0, **more: Any) -> dict[str, datasets.Dataset]:
    """Documents with `CHAINS` interleaved chains of a value and `LINKS` names; a chain's last name is asked for."""
    return _dataset(_tracking, Maker.of("tracking", length, seed, **more), documents)


def recall(length: int, documents: int = DOCUMENTS, seed: int = 0, **more: Any) -> dict[str, datasets.Dataset]:
    """As `needles`, to be chosen from the right value and three others of the same document; `length` with a value."""
    return _dataset(_recall, Maker.of("recall", length, seed, **more), documents)


def _needle(rng: random.Random, place: float) -> Quiz:
    facts = draw_facts(rng, 1)
    return Quiz(facts, facts[0].name, [place])


def _needles(rng: random.Random, place: float) -> Quiz:
    facts = draw_facts(rng, KEYS)
    return Quiz(facts, rng.choice(facts).name, _depths(rng, KEYS))


def _tracking(rng: random.Random, place: float) -> Quiz:
    chains = draw_chains(rng, CHAINS, LINKS)
    facts = shuffled_together(rng, chains)
    return Quiz(facts, rng.choice(chains)[-1].name, _depths(rng, len(facts)))


def _recall(rng: random.Random, place: float) -> Quiz:
    quiz = _needles(rng, place)
    others = [answer(fact.name, quiz.facts) for fact in quiz.facts if fact.name != quiz.asked]
    choices = [quiz.answer, *rng.sample(others, CHOICES - 1)]
    rng.shuffle(choices)
    return Quiz(quiz.facts, quiz.asked, quiz.depths, choices)


def _depths(rng: random.Random, count: int) -> list[float]:
    return sorted(rng.random() for _ in range(count))


@dataclass(frozen=True)
class Maker:
    """Makes the documents of one task for one tokenizer."""

    task: str
    length: int
    seed: int
    encoder: Encoder
    haystack: Haystack
    limit: int | None
    """Make only the first of the documents."""

    @classmethod
    def of(
        cls,
        task: str,
        length: int,
        seed: int,
        *,
        tokenizer: str = "",
        pretrained: str = "",
        limit: int | None = None,
        **_: Any,
    ) -> Maker:
        """As lm-eval calls it: `tokenizer` or `pretrained` names the tokenizer. UsageError when neither does."""
        name = tokenizer or pretrained
        return cls(task, length, seed, Encoder.of(name), Haystack.of(name), limit)

    def documents(self, draw: Draw, count: int) -> list[dict[str, Any]]:
        """`count` documents in an order of which any beginning has text from all over and all depths.

        Raises UsageError when the held-out text has fewer than `length` tokens, or the facts alone have more.
        """
        blocks = self.haystack.blocks(min(count, int(self.haystack.tokens / (ROOM * self.length))) or 1)
        order = random.Random(self.seed).sample(range(len(blocks)), len(blocks))
        numbers = range(min(count, self.limit or count))
        return [self._document(draw, number, order[number % len(order)], blocks) for number in numbers]

    def _document(self, draw: Draw, number: int, cluster: int, blocks: Sequence[range]) -> dict[str, Any]:
        rng = random.Random(f"{self.task} {self.seed} {number}")
        place = (number + 0.5) * GOLDEN_RATIO % 1
        for _ in range(ATTEMPTS):
            quiz = draw(rng, place)
            prompt = self._prompt(rng, quiz, blocks[cluster])
            if prompt is not None:
                return {**_fields(quiz, prompt), "cluster": cluster}
        raise UsageError(f"{self.task} documents of {self.length} tokens do not fit: the facts or the text do not")

    def _prompt(self, rng: random.Random, quiz: Quiz, block: range) -> str | None:
        """Text, facts and question, cut at the front to the exact length; None when this draw cannot be cut so."""
        asked = {self.encoder.count(question(quiz.asked) + choice) for choice in quiz.choices or [""]}
        facts = self.encoder.count("".join(fact.line for fact in quiz.facts))
        wanted = self.length - facts - max(asked)
        end = self.haystack.end(rng, block, wanted)
        if wanted <= 0 or end is None or len(asked) > 1:
            return None
        for _ in range(ADJUSTMENTS):
            lines = self.haystack.before(end, wanted)
            if lines.start < block.start:
                return None
            text = "".join(_with_facts([self.haystack.lines[line] for line in lines], quiz)) + quiz.end
            prompt = self.encoder.tail(text, self.length)
            if prompt is not None:
                return prompt.removesuffix(quiz.chosen) if _is_whole(prompt, quiz) else None
            short = self.length - self.encoder.count(text)
            if short <= 0:
                return None
            wanted += short
        return None


def _is_whole(prompt: str, quiz: Quiz) -> bool:
    """No fact was cut off, and none stands in the text with another value."""
    return all(prompt.count(f"\n{fact.line}") == prompt.count(f"\n{fact.start}") == 1 for fact in quiz.facts)


def _with_facts(lines: list[str], quiz: Quiz) -> list[str]:
    """The lines with the facts among them; none stands before the first line, of which the cut takes a part."""
    mixed = list(lines)
    for fact, depth in reversed(list(zip(quiz.facts, quiz.depths, strict=True))):
        mixed.insert(1 + int(depth * len(lines)), fact.line)
    return mixed


def _fields(quiz: Quiz, prompt: str) -> dict[str, Any]:
    """A document's columns; `depth` is the share of the prompt's characters before the fact that is asked for."""
    asked = next(fact for fact in quiz.facts if fact.name == quiz.asked)
    fields: dict[str, Any] = {
        "prompt": prompt,
        "value": quiz.value,
        "answer": quiz.answer,
        "depth": round(prompt.index(f"\n{asked.start}") / len(prompt), 4),
    }
    if quiz.choices:
        fields |= {"choices": quiz.choices, "gold": quiz.choices.index(quiz.answer)}
    return fields


def _dataset(draw: Draw, maker: Maker, documents: int) -> dict[str, datasets.Dataset]:
    import datasets

    return {"test": datasets.Dataset.from_list(maker.documents(draw, documents))}
