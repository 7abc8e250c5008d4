"""Logits equal transformers' on random tiny checkpoints, to 1e-5 relative L2 in FP32, however the tokens are fed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch

from harness import load_runner
from harness.contract import ModelConfig
from tests.support.checkpoints import YARN, random_tokens
from tests.support.running import ends, in_chunks, relative_l2

TOLERANCE = 1e-5

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "v2 groups": ("deepseek_v2", {}),
    "v2 without q_lora, greedy, yarn": (
        "deepseek_v2",
        {"q_lora_rank": None, "topk_method": "greedy", "rope_parameters": YARN},
    ),
    "v2 tied, biased, yarn with unlike mscale": (
        "deepseek_v2",
        {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.0},
        },
    ),
    "v3 groups": ("deepseek_v3", {}),
    "v3 yarn, one group": ("deepseek_v3", {"rope_parameters": YARN, "n_group": 1, "topk_group": 1}),
    "v3 without q_lora, half-split rope": ("deepseek_v3", {"q_lora_rank": None, "rope_interleave": False}),
    "v3 weights not renormalised, tied, biased": (
        "deepseek_v3",
        {"norm_topk_prob": False, "tie_word_embeddings": True, "attention_bias": True},
    ),
    "v3 all dense, large eps": ("deepseek_v3", {"first_k_dense_replace": 2, "rms_norm_eps": 1e-2}),
    "v3 yarn untruncated, no mscale": (
        "deepseek_v3",
        {"rope_parameters": {key: value for key, value in YARN.items() if "mscale" not in key} | {"truncate": False}},
    ),
    "v32": ("deepseek_v32", {}),
    "v32 yarn, tied": ("deepseek_v32", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "v32 32 index heads, wide": (
        "deepseek_v32",
        {"index_n_heads": 32, "index_head_dim": 24, "n_group": 1, "topk_group": 1},
    ),
    "glm": ("glm_moe_dsa", {}),
    "glm yarn": ("glm_moe_dsa", {"rope_parameters": YARN}),
}


@lru_cache(maxsize=4)
def _peer(directory: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory).eval()


def _expected(directory: str, tokens_BT: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return _peer(directory)(tokens_BT, use_cache=False).logits


@pytest.mark.parametrize("form", ["mha", "mqa"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str, seed: int, form: str, checkpoint: Callable[..., str]) -> None:
    model_type, overrides = CASES[case]
    directory = checkpoint(model_type, seed, **overrides)
    selector = "dsa" if ModelConfig.from_hf(_raw(directory)).has_indexer else "dense"
    runner = load_runner(directory, form=form, selector=selector)
    tokens_BT = random_tokens(2, 37, seed)
    expected_BTV = _expected(directory, tokens_BT)

    assert relative_l2(runner.logits(tokens_BT), expected_BTV) < TOLERANCE
    whole = [36]  # prefill of all but the last token, which is decoded
    for sizes in (whole, [11, 1, 17], [1]):
        got_BnV = in_chunks(runner, tokens_BT, sizes)
        assert relative_l2(got_BnV, expected_BTV[:, ends(37, sizes)]) < TOLERANCE, sizes


@pytest.mark.parametrize("length", [1, 7, 8, 9])
def test_selection_starts_beyond_index_topk(length: int, checkpoint: Callable[..., str]) -> None:
    """Around index_topk = 8: all keys, exactly all keys, and the first token with a choice."""
    directory = checkpoint("deepseek_v32")
    runner = load_runner(directory, form="mqa", selector="dsa")
    tokens_BT = random_tokens(3, length, seed=5)
    assert relative_l2(runner.logits(tokens_BT), _expected(directory, tokens_BT)) < TOLERANCE


def test_one_token_at_a_position_past_the_original_context(checkpoint: Callable[..., str]) -> None:
    """YaRN's slowed pairs matter only at distance: 130 tokens with an original context of 64."""
    directory = checkpoint("deepseek_v3", rope_parameters=YARN)
    runner = load_runner(directory, form="mqa")
    tokens_BT = random_tokens(1, 130, seed=2)
    expected_BTV = _expected(directory, tokens_BT)
    assert relative_l2(in_chunks(runner, tokens_BT, [64, 65]), expected_BTV[:, ends(130, [64, 65])]) < TOLERANCE


def test_the_comparison_sees_a_wrong_weight(checkpoint: Callable[..., str]) -> None:
    """The tolerance is tight enough: another seed of the same shapes is far off."""
    tokens_BT = random_tokens(2, 20)
    other = load_runner(checkpoint("deepseek_v3", 1))
    assert relative_l2(other.logits(tokens_BT), _expected(checkpoint("deepseek_v3", 0), tokens_BT)) > 0.1


def _raw(directory: str) -> dict[str, Any]:
    import json
    from pathlib import Path

    return json.loads((Path(directory) / "config.json").read_text())
