"""Every way of computing one model gives the same logits: forms, caches, selectors, chunks and batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from harness_plugins.native_forms import mha_cost, mqa_cost

from harness import load_runner
from harness.contract.attention import AttentionCall
from harness.contract.cache import NewKeys
from harness.contract.span import Span
from harness.model.presets import PRESETS
from tests.support.checkpoints import random_tokens
from tests.support.running import ends, in_chunks, relative_l2

TOLERANCE = 1e-5
VARIANTS = [("mha", "latent"), ("mqa", "latent"), ("auto", "latent"), ("mha", "expanded")]


@pytest.mark.parametrize(("form", "cache"), VARIANTS)
@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_forms_and_caches_agree_with_the_fp64_oracle(form: str, cache: str, selector: str) -> None:
    tokens_BT = random_tokens(2, 61, vocab_size=128)
    oracle = load_runner("tiny-v32", form="mha", selector=selector, precision="fp64")
    runner = load_runner("tiny-v32", form=form, cache=cache, selector=selector)
    expected_BTV = oracle.logits(tokens_BT)
    assert relative_l2(runner.logits(tokens_BT), expected_BTV) < TOLERANCE
    sizes = [19, 1, 30]
    assert relative_l2(in_chunks(runner, tokens_BT, sizes), expected_BTV[:, ends(61, sizes)]) < TOLERANCE


@pytest.mark.parametrize("index_heads", [1, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_index_heads_select_the_same_however_the_tokens_are_fed(
    index_heads: int, seed: int, checkpoint: Callable[..., str]
) -> None:
    """With few heads ReLU makes many exact ties, which only a declared tie rule breaks alike in every shape."""
    directory = checkpoint("deepseek_v32", seed, index_n_heads=index_heads)
    tokens_BT = random_tokens(2, 45, seed)
    for form in ("mha", "mqa"):
        runner = load_runner(directory, form=form, selector="dsa")
        expected_BTV = runner.logits(tokens_BT)
        for sizes in ([44], [13, 2, 20], [1]):
            assert relative_l2(in_chunks(runner, tokens_BT, sizes), expected_BTV[:, ends(45, sizes)]) < TOLERANCE


@pytest.mark.parametrize("form", ["mha", "mqa"])
def test_dsa_that_may_select_every_key_is_dense(form: str, checkpoint: Callable[..., str]) -> None:
    tokens_BT = random_tokens(2, 40)
    all_keys = checkpoint("deepseek_v32", index_topk=40)
    dense = load_runner(all_keys, form=form, selector="dense")
    dsa = load_runner(all_keys, form=form, selector="dsa")
    assert torch.equal(dsa.logits(tokens_BT), dense.logits(tokens_BT))
    one_fewer = load_runner(checkpoint("deepseek_v32", index_topk=39), form=form, selector="dsa")
    assert relative_l2(one_fewer.logits(tokens_BT), dense.logits(tokens_BT)) > 1e-4


@pytest.mark.parametrize(("form", "cache", "selector"), [(*v, s) for v in VARIANTS for s in ("dense", "dsa")])
def test_a_ragged_batch_is_its_sequences(form: str, cache: str, selector: str) -> None:
    """Sequences of unlike length in one batch, continued at unlike offsets, then decoded."""
    runner = load_runner("tiny-v32", form=form, cache=cache, selector=selector)
    tokens_BT = random_tokens(3, 70, vocab_size=128)
    first, second = torch.tensor([5, 30, 17]), torch.tensor([20, 1, 33])
    state = runner.new_state(3, 70)
    got = [runner.prefill(tokens_BT[:, :30], state, first)]
    got.append(runner.prefill(_columns(tokens_BT, first, 33), state, second))
    total = first + second
    assert state.lengths_B.tolist() == total.tolist()
    for step in range(3):
        got.append(runner.decode(_columns(tokens_BT, total + step, 1)[:, 0], state))
    for b in range(3):
        stops = [int(first[b]), int(total[b])] + [int(total[b]) + step for step in (1, 2, 3)]
        expected = runner.logits(tokens_BT[b : b + 1, : stops[-1]])[0, [stop - 1 for stop in stops]]
        assert relative_l2(torch.stack([each[b] for each in got]), expected) < TOLERANCE


def _columns(tokens_BT: torch.Tensor, starts_B: torch.Tensor, width: int) -> torch.Tensor:
    """`width` columns of every row from its own start on; what does not exist is padding (token 0)."""
    padded = torch.nn.functional.pad(tokens_BT, (0, width))
    return padded.gather(1, starts_B[:, None] + torch.arange(width))


def test_padding_is_never_seen() -> None:
    """Whatever stands in padded columns, the answer is the same to the last bit."""
    runner = load_runner("tiny-v32", form="mqa", selector="dsa")
    tokens_BT, lengths_B = random_tokens(2, 40, vocab_size=128), torch.tensor([25, 40])
    answers = []
    for filler in (0, 77):
        padded_BT = tokens_BT.clone()
        padded_BT[0, 25:] = filler
        state = runner.new_state(2, 50)
        answers.append(
            torch.stack([runner.prefill(padded_BT, state, lengths_B), runner.decode(tokens_BT[:, 0], state)])
        )
        assert torch.equal(runner.logits(padded_BT, lengths_B)[0, :25], runner.logits(tokens_BT)[0, :25])
    assert torch.equal(*answers)


# --- the rule of form auto ------------------------------------------------------------------------------


def _call(preset: str, start: int, new: int, keys_per_query: int | None) -> AttentionCall:
    """A call of which only the shapes are real."""
    config = PRESETS[preset]
    heads, device = config.num_attention_heads, "meta"
    key_up = torch.empty(heads, config.qk_nope_head_dim, config.kv_lora_rank, device=device)
    value_up = torch.empty(heads, config.v_head_dim, config.kv_lora_rank, device=device)
    rope = torch.empty(1, new, config.qk_rope_head_dim, device=device)
    return AttentionCall(
        q_nope_BTHN=torch.empty(1, new, heads, config.qk_nope_head_dim, device=device),
        q_rope_BTHR=torch.empty(1, new, heads, config.qk_rope_head_dim, device=device),
        keys=NewKeys(torch.empty(1, new, config.kv_lora_rank, device=device), rope, key_up, value_up),
        span=Span((start,), (start + new,), new),
        key_up_HNC=key_up,
        value_up_HVC=value_up,
        scale=1.0,
        select=lambda columns, span: None,
        keys_per_query=keys_per_query,
        ops=None,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("context", [10_000, 100_000])
def test_auto_expands_v3_from_171_new_tokens_on(context: int) -> None:
    def expands(new: int) -> bool:
        call = _call("v3-layer", context, new, None)
        return mha_cost(call) < mqa_cost(call)

    crossover = next(new for new in itertools.count(1) if expands(new))
    assert 169 <= crossover <= 174  # 170.7 when the new tokens themselves are few beside the context
    assert not expands(1)


def test_auto_absorbs_long_sparse_prefill() -> None:
    """With 2,048 keys per query whole prompts beyond about 16K tokens are cheaper absorbed (V3.2 dimensions)."""
    short, long = _call("v32-layer", 0, 8_000, 2048), _call("v32-layer", 0, 32_000, 2048)
    assert mha_cost(short) < mqa_cost(short)
    assert mha_cost(long) > mqa_cost(long)
