"""The byte tokenizer, as transformers loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.train.tokenizer import BOS, BOS_ID, EOS, EOS_ID, PAD, PAD_ID, VOCAB_SIZE, build_tokenizer, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, max_length=8192)
    return AutoTokenizer.from_pretrained(directory)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_one_token_per_byte_and_back(tokenizer: Any, text: str) -> None:
    assume(not any(special in text for special in (BOS, EOS, PAD)))
    ids = tokenizer.encode(text)
    assert ids == list(text.encode("utf-8"))
    assert tokenizer.decode(ids) == text


def test_every_byte_has_a_token_of_its_own_number() -> None:
    vocabulary = build_tokenizer().get_vocab()
    assert sorted(vocabulary.values()) == list(range(VOCAB_SIZE))


def test_special_tokens_are_known_and_never_added_by_themselves(tokenizer: Any) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (BOS_ID, EOS_ID, PAD_ID)
    assert tokenizer("ab")["input_ids"] == [97, 98]
    assert tokenizer.decode([BOS_ID, 97, EOS_ID], skip_special_tokens=True) == "a"
    assert tokenizer.model_max_length == 8192


def test_a_batch_is_padded_with_pad(tokenizer: Any) -> None:
    assert tokenizer(["a", "bcd"], padding=True)["input_ids"] == [[97, PAD_ID, PAD_ID], [98, 99, 100]]
