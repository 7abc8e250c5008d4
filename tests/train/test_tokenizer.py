"""The tokenizer, as transformers loads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from harness.train.data import training_tokenizer
from harness.train.tokenizer import BOS, BOS_ID, EOS, EOS_ID, PAD, PAD_ID, write_tokenizer

SIZE = 600


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return training_tokenizer(SIZE)


@pytest.fixture(scope="module")
def tokenizer(learned: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learned, directory, max_length=8192)
    return AutoTokenizer.from_pretrained(directory)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_every_text_comes_back(tokenizer: Any, text: str) -> None:
    assume(not any(special in text for special in (BOS, EOS, PAD)))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(st.text(alphabet="ab 1\t#é_(", max_size=12), min_size=1, max_size=5))
def test_the_tokens_of_a_text_are_those_of_its_lines(tokenizer: Any, lines: list[str]) -> None:
    apart = [token for line in lines for token in tokenizer.encode(f"{line}\n")]
    assert tokenizer.encode("".join(f"{line}\n" for line in lines)) == apart


def test_no_token_holds_more_than_two_digits(learned: Tokenizer) -> None:
    numbers = [token for token in learned.get_vocab() if any(map(str.isdigit, token.removeprefix("Ġ")))]
    assert len(numbers) > 10
    assert all(re.fullmatch(r"Ġ?\d{1,2}", token) for token in numbers if token.isascii() or token[0] == "Ġ")


def test_learning_twice_gives_the_same(learned: Tokenizer) -> None:
    assert training_tokenizer(SIZE).to_str() == learned.to_str()


def test_the_vocabulary_has_the_size_asked_for(learned: Tokenizer) -> None:
    assert sorted(learned.get_vocab().values()) == list(range(SIZE))


def test_special_tokens_are_known_and_never_added_by_themselves(tokenizer: Any) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (BOS_ID, EOS_ID, PAD_ID)
    plain = tokenizer("a")["input_ids"]
    assert not {BOS_ID, EOS_ID, PAD_ID} & set(plain)
    assert tokenizer.decode([BOS_ID, *plain, EOS_ID], skip_special_tokens=True) == "a"
    assert tokenizer.model_max_length == 8192


def test_a_batch_is_padded_with_pad(tokenizer: Any) -> None:
    short, long = tokenizer(["x", "x\nx"], padding=True)["input_ids"]
    assert short == [long[0], PAD_ID, PAD_ID]
