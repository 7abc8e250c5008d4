"""Precisions: what stays wide in BF16, and FP64 as an oracle of the same code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness import load_runner
from harness.contract.precision import Precision
from tests.support.checkpoints import random_tokens
from tests.support.running import ends, in_chunks, relative_l2

TOKENS = random_tokens(2, 50, vocab_size=128)


def test_bf16_keeps_norms_router_and_index_weights_in_fp32() -> None:
    runner: Any = load_runner("tiny-v32", precision="bf16", selector="dsa")
    dtypes = {name: tensor.dtype for name, tensor in runner.model.state_dict().items()}
    wide = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert {name.removeprefix("model.layers.1.") for name in wide if "layers.1" in name} == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_a_layernorm.weight",
        "self_attn.kv_a_layernorm.weight",
        "self_attn.indexer.k_norm.weight",
        "self_attn.indexer.k_norm.bias",
        "self_attn.indexer.weights_proj.weight",
        "mlp.gate.weight",
        "mlp.gate.e_score_correction_bias",
    }
    assert set(dtypes.values()) == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize(("form", "cache"), [("mha", "latent"), ("mqa", "latent"), ("mha", "expanded")])
def test_bf16_stays_near_fp32_in_every_form(form: str, cache: str) -> None:
    """BF16 has 8 bits: about 1e-2 over two layers, in the median, since some tokens are routed to other experts."""
    expected_BTV = load_runner("tiny-v3", form="mha").logits(TOKENS)
    runner = load_runner("tiny-v3", form=form, cache=cache, precision="bf16")
    got_BTV = runner.logits(TOKENS)
    assert got_BTV.dtype == torch.float32
    assert 1e-4 < _median_error(got_BTV, expected_BTV) < 1.5e-2
    chunked_BnV = in_chunks(runner, TOKENS, [20, 20])
    assert _median_error(chunked_BnV, expected_BTV[:, ends(50, [20, 20])]) < 1.5e-2


def _median_error(got_BTV: torch.Tensor, expected_BTV: torch.Tensor) -> float:
    return ((got_BTV - expected_BTV).norm(dim=-1) / expected_BTV.norm(dim=-1)).median().item()


def test_bf16_halves_the_cache() -> None:
    full, half = (load_runner("tiny-v32", precision=name, selector="dsa").new_state(1, 8) for name in ("fp32", "bf16"))
    assert half.bytes * 2 == full.bytes


def test_fp64_is_closer_to_itself_than_fp32_can_be() -> None:
    runner = load_runner("tiny-v32", form="mha", selector="dsa", precision="fp64")
    other = load_runner("tiny-v32", form="mqa", selector="dsa", precision="fp64")
    assert relative_l2(runner.logits(TOKENS), other.logits(TOKENS)) < 1e-7  # logits are handed out in FP32


def test_a_precision_says_what_stays_wide() -> None:
    assert Precision("bf16", torch.bfloat16).wide == torch.float32
    assert Precision("fp64", torch.float64).wide == torch.float64
