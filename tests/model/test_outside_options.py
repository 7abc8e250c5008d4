"""Selectors and caches come from outside without a change to the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness import load_runner
from tests.support.checkpoints import random_tokens
from tests.support.running import ends, in_chunks, relative_l2

PLUGIN = str(Path(__file__).parent / "outside_options.py")
TOKENS = random_tokens(2, 40, vocab_size=128)


@pytest.mark.parametrize("form", ["mha", "mqa", "auto"])
def test_a_sliding_selector(form: str) -> None:
    """All forms agree, chunks and decode included, and two layers of window 8 see 14 tokens back, not 15."""
    runner = load_runner("tiny-v3", form=form, selector="sliding", plugins=[PLUGIN])
    expected_BTV = load_runner("tiny-v3", form="mha", selector="sliding", plugins=[PLUGIN], precision="fp64").logits(
        TOKENS
    )
    assert relative_l2(runner.logits(TOKENS), expected_BTV) < 1e-5
    assert relative_l2(in_chunks(runner, TOKENS, [5, 20]), expected_BTV[:, ends(40, [5, 20])]) < 1e-5
    changed = TOKENS.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 128
    same = (runner.logits(changed) == runner.logits(TOKENS)).all(-1).all(0)
    assert same[25:].all()
    assert not same[10:25].any()


def test_a_sliding_selector_in_a_ragged_batch() -> None:
    runner = load_runner("tiny-v3", form="mqa", selector="sliding", plugins=[PLUGIN])
    state = runner.new_state(2, 45)
    got_BV = runner.prefill(TOKENS, state, torch.tensor([9, 40]))
    assert relative_l2(got_BV[0], runner.logits(TOKENS[:1, :9])[0, -1]) < 1e-5
    assert relative_l2(got_BV[1], runner.logits(TOKENS[1:])[0, -1]) < 1e-5


@pytest.mark.parametrize("form", ["mha", "mqa"])
@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_a_packed_cache(form: str, selector: str) -> None:
    """Half the bytes, and BF16's error and no more: the packed bytes hold what was written."""
    runner = load_runner("tiny-v32", form=form, selector=selector, cache="packed", plugins=[PLUGIN])
    plain = load_runner("tiny-v32", form=form, selector=selector)
    tokens_BT = TOKENS[:, :16]  # as many as index_topk: no selection that rounding could change
    states = [each.new_state(2, 32) for each in (runner, plain)]
    assert 2 * states[0].bytes_per_token == states[1].bytes_per_token
    got, expected = (each.prefill(tokens_BT, state) for each, state in zip((runner, plain), states, strict=True))
    error = ((got - expected).norm(dim=-1) / expected.norm(dim=-1)).median()
    assert 1e-5 < error < 2e-2
