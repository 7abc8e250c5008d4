"""The documents' format: facts, questions, answers, and what is drawn for them."""

from __future__ import annotations

import random
from collections import Counter

from harness import retrieval
from harness.retrieval import Fact


def test_a_fact_is_a_line_and_its_question_is_answered_by_its_value() -> None:
    fact = Fact("anchor", "4821")
    assert fact.line == "# anchor 4821\n" == f"{fact.start}4821\n"
    assert retrieval.question("anchor") + retrieval.answer("anchor", [fact]) == "? anchor 4821"


def test_the_answer_to_a_name_is_the_chain_to_its_value() -> None:
    facts = [Fact("anchor", "4821"), Fact("falcon", "anchor"), Fact("zebra", "falcon"), Fact("moss", "1234")]
    assert retrieval.answer("zebra", facts) == " falcon anchor 4821"
    assert retrieval.answer("moss", facts) == " 1234"


def test_names_and_values_of_a_document_are_different() -> None:
    for seed in range(50):
        facts = retrieval.draw_facts(random.Random(seed), 20)
        assert len({fact.name for fact in facts}) == len({fact.value for fact in facts}) == 20
        assert all(retrieval.VALUE.fullmatch(fact.value) for fact in facts)


def test_values_alike_share_their_beginnings_and_still_differ() -> None:
    for seed in range(50):
        values = [fact.value for fact in retrieval.draw_facts(random.Random(seed), 20, alike=True)]
        assert len(set(values)) == 20
        assert all(retrieval.VALUE.fullmatch(value) for value in values)
        assert len({value[:2] for value in values}) <= 1 + 20 // retrieval.ALIKE


def test_names_are_different_plain_words() -> None:
    assert len(set(retrieval.NAMES)) == len(retrieval.NAMES) > 200
    assert all(name.isalpha() and name.islower() for name in retrieval.NAMES)


def test_chains_lead_from_their_last_name_to_their_value() -> None:
    chains = retrieval.draw_chains(random.Random(1), chains=4, links=3)
    facts = [fact for chain in chains for fact in chain]
    assert len({fact.name for fact in facts}) == 16
    for chain in chains:
        names = [fact.name for fact in chain]
        links = [*reversed(names[:-1]), chain[0].value]
        assert retrieval.answer(names[-1], facts) == "".join(f" {link}" for link in links)


def test_chains_are_shuffled_together_in_their_own_order() -> None:
    chains = retrieval.draw_chains(random.Random(2), chains=4, links=3)
    firsts: Counter[str] = Counter()
    for seed in range(200):
        facts = retrieval.shuffled_together(random.Random(seed), chains)
        assert len(facts) == 16
        for chain in chains:
            assert [fact for fact in facts if fact in chain] == chain
        firsts[facts[0].name] += 1
    assert len(firsts) == 4
    assert min(firsts.values()) > 25
