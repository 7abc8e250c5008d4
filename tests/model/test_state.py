"""The native state: bytes, truncation, synthetic content, and refusals."""

from __future__ import annotations

import pytest
import torch

from harness import load_runner
from harness.contract.synthetic import synthetic_field
from harness.errors import UsageError
from harness.model.presets import PRESETS
from harness.model.runner import NativeRunner
from tests.support.checkpoints import random_tokens
from tests.support.running import relative_l2

TINY = PRESETS["tiny-v32"]


@pytest.mark.parametrize(
    ("selector", "cache", "values"),
    [
        ("dense", "latent", 32 + 8),
        ("dsa", "latent", 32 + 8 + 16),
        ("dense", "expanded", 4 * (24 + 16)),
        ("dsa", "expanded", 4 * (24 + 16) + 16),
    ],
)
def test_bytes_are_those_of_the_declared_fields(selector: str, cache: str, values: int) -> None:
    """Two layers, FP32: latent 32, rope 8, index key 16; expanded 4 heads of key 24 and value 16."""
    runner = load_runner("tiny-v32", form="mha", selector=selector, cache=cache)
    state = runner.new_state(batch=3, max_len=50)
    assert state.bytes_per_token == 2 * 4 * values
    assert state.bytes == 3 * 50 * state.bytes_per_token
    runner.prefill(random_tokens(3, 40, vocab_size=128), state)
    assert state.bytes == 3 * 50 * state.bytes_per_token


def test_v3_cache_bytes_are_the_published_ones() -> None:
    """1,152 bytes per token and layer for BF16 latents, 81,920 for expanded keys and values (DeepSeek-V3 shape)."""
    from harness_plugins.native_caches import EXPANDED, LATENT

    config = PRESETS["v32-layer"]
    assert LATENT.bytes_per_token(config, torch.bfloat16, {}) == 1152
    assert LATENT.bytes_per_token(config, torch.bfloat16, {"index_key": 128}) == 1408
    assert EXPANDED.bytes_per_token(config, torch.bfloat16, {}) == 81_920


@pytest.mark.parametrize("cache", ["latent", "expanded"])
def test_truncate_forgets(cache: str) -> None:
    """After truncation a sequence continues as if the rest had never been there, each at its own length."""
    runner = load_runner("tiny-v32", form="mha", selector="dsa", cache=cache)
    tokens_BT, other_BT = random_tokens(2, 60, 1, 128), random_tokens(2, 60, 2, 128)
    state = runner.new_state(2, 60)
    runner.prefill(tokens_BT, state)
    state.truncate([20, 33])
    assert state.lengths_B.tolist() == [20, 33]
    got_BV = runner.prefill(other_BT[:, :10], state)
    for b, kept in enumerate((20, 33)):
        spliced = torch.cat([tokens_BT[b, :kept], other_BT[b, :10]])[None]
        assert relative_l2(got_BV[b], runner.logits(spliced)[0, -1]) < 1e-5


@pytest.mark.parametrize("lengths", [[5, 61], [-1, 5], [5], [1, 2, 3]])
def test_truncate_refuses_lengths_that_are_not_there(lengths: list[int]) -> None:
    runner = load_runner("tiny-v3")
    state = runner.new_state(2, 64)
    runner.prefill(random_tokens(2, 60, vocab_size=128), state)
    with pytest.raises(ValueError, match=r"truncate|lengths"):
        state.truncate(lengths)
    assert state.lengths_B.tolist() == [60, 60]


def test_synthetic_rows_do_not_depend_on_the_slice() -> None:
    whole = synthetic_field(3, 1, "latent", 0, 2500, 12)
    assert torch.equal(synthetic_field(3, 1, "latent", 1000, 2100, 12), whole[1000:2100])
    assert torch.allclose(whole.square().mean(-1), torch.ones(2500), atol=1e-5)
    assert synthetic_field(3, 1, "latent", 7, 7, 12).shape == (0, 12)
    for other in ((4, 1, "latent"), (3, 2, "latent"), (3, 1, "rope_key")):
        assert not torch.equal(synthetic_field(*other, 0, 2500, 12), whole)
    rope_key = synthetic_field(0, 0, "rope_key", 0, 4000, 16)
    assert abs(rope_key.std().item() - 1) < 0.02


@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_random_content_is_the_same_in_every_form_and_cache(selector: str) -> None:
    """A decode step over 1,500 synthetic tokens: forms, caches and two ways of reaching the length agree."""
    token_B = torch.tensor([3, 9])
    answers = []
    for form, cache, length in (("mqa", "latent", 1500), ("mha", "expanded", 1500), ("mha", "latent", 1600)):
        runner = load_runner("tiny-v32", form=form, selector=selector, cache=cache)
        state = runner.new_state(2, 1700)
        state.fill_random(seed=7, length=length)
        assert state.lengths_B.tolist() == [length, length]
        state.truncate([1500, 1500])
        answers.append(runner.decode(token_B, state))
    assert relative_l2(answers[1], answers[0]) < 1e-5
    assert relative_l2(answers[2], answers[0]) < 1e-5
    other = runner.new_state(2, 1700)
    other.fill_random(seed=8, length=1500)
    assert relative_l2(runner.decode(token_B, other), answers[0]) > 1e-3


def test_fill_random_refuses_what_does_not_fit() -> None:
    state = load_runner("tiny-v3").new_state(1, 10)
    with pytest.raises(ValueError, match="at most 10"):
        state.fill_random(0, 11)


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        ((2, 0), None, "every sequence needs between 1 and 0"),
        ((2, 4), [0, 4], "every sequence needs between 1 and 4"),
        ((2, 4), [4, 5], "every sequence needs between 1 and 4"),
        ((2, 4), [4], "got 1 lengths for 2 sequences"),
        ((2, 9), None, "the state holds at most 8 tokens"),
        ((3, 4), None, "the state holds 2 sequences"),
    ],
)
def test_prefill_refuses(tokens: tuple[int, int], lengths: list[int] | None, message: str) -> None:
    runner = load_runner("tiny-v3")
    state = runner.new_state(2, 8)
    with pytest.raises(UsageError, match=message):
        runner.prefill(
            random_tokens(*tokens, vocab_size=128), state, None if lengths is None else torch.tensor(lengths)
        )
    assert state.lengths_B.tolist() == [0, 0]


def test_ids_outside_the_vocabulary_are_refused() -> None:
    runner = load_runner("tiny-v3")
    with pytest.raises(UsageError, match="below vocab_size 128; found 5 to 128"):
        runner.logits(torch.tensor([[5, 128]]))
    with pytest.raises(UsageError, match="found -1 to 5"):
        runner.prefill(torch.tensor([[5, -1]]), runner.new_state(1, 4))


def test_a_context_beyond_the_models_maximum_is_refused() -> None:
    runner = load_runner("tiny-v3")
    with pytest.raises(UsageError, match="4097 tokens do not fit this model: max_position_embeddings is 4096"):
        runner.new_state(1, 4097)
    with pytest.raises(UsageError, match="max_position_embeddings is 4096"):
        runner.logits(torch.zeros(1, 4097, dtype=torch.int64))


def test_decode_beyond_the_state_is_refused() -> None:
    runner = load_runner("tiny-v3")
    state = runner.new_state(1, 3)
    runner.prefill(random_tokens(1, 3, vocab_size=128), state)
    with pytest.raises(UsageError, match="the state holds at most 3 tokens a sequence; this call makes 4"):
        runner.decode(torch.tensor([1]), state)


def test_tokens_that_are_not_on_the_host_are_not_read_back() -> None:
    """A look at them would make the host wait for a GPU once a call; `meta` tensors stand in: they have no values."""
    runner = load_runner("tiny-v3")
    assert isinstance(runner, NativeRunner)
    assert runner._counts(torch.empty(2, 3, dtype=torch.int64, device="meta"), None) == [3, 3]
    with pytest.raises(UsageError, match="below vocab_size 128; found 0 to 128"):
        runner._counts(torch.tensor([[0, 128]]), None)
