"""Two engines, one set of weights: `hf` and `native` agree, on presets, on synthetic contexts, on FP8 weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness import load_runner
from harness.contract.runner import Runner
from tests.support.checkpoints import random_tokens, save_checkpoint

SAME = 1e-5
"""Relative L2 in FP32 between two implementations of the same sums."""

CASES = [
    ("tiny-v2", "dense"),
    ("tiny-v2-lite", "dense"),
    ("tiny-v3", "dense"),
    ("tiny-v32", "dense"),
    ("tiny-v32", "dsa"),
    ("tiny-glm", "dense"),
    ("tiny-glm", "dsa"),
]


def both(checkpoint: str, selector: str, **choices: str) -> tuple[Runner, Runner]:
    return (
        load_runner(checkpoint, engine="hf", selector=selector, **choices),
        load_runner(checkpoint, engine="native", form="mha", selector=selector, **choices),
    )


def distance(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((given.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize(("preset", "selector"), CASES)
def test_a_preset_has_the_same_weights_in_both_engines(preset: str, selector: str) -> None:
    hf, native = both(preset, selector)
    plain = load_runner(preset, engine="hf", selector=selector, kernels="hf-eager")
    tokens_BT = random_tokens(2, 31, vocab_size=128)
    assert distance(hf.logits(tokens_BT), native.logits(tokens_BT)) < SAME
    assert distance(plain.logits(tokens_BT), native.logits(tokens_BT)) < SAME


@pytest.mark.parametrize(("preset", "selector"), CASES)
def test_steps_over_a_synthetic_context_agree(preset: str, selector: str) -> None:
    answers = []
    for runner in both(preset, selector):
        state = runner.new_state(batch=2, max_len=100)
        state.fill_random(seed=3, length=90)
        steps = [runner.decode(random_tokens(2, 4, seed=t, vocab_size=128)[:, t], state) for t in range(4)]
        state.truncate([90, 70])
        steps.append(runner.decode(torch.tensor([1, 2]), state))
        answers.append(torch.stack(steps))
    assert distance(*answers) < SAME


def test_bytes_per_token_agree_where_the_format_is_the_same() -> None:
    for selector in ("dense", "dsa"):
        hf, native = both("tiny-v32", selector, precision="bf16")
        assert hf.new_state(1, 8).bytes_per_token == native.new_state(1, 8).bytes_per_token


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fp8_weights_are_dequantised_alike(precision: str, tmp_path: Path) -> None:
    directory = quantised(save_checkpoint(tmp_path / "fp8", "deepseek_v32", seed=4))
    hf, native = both(str(directory), "dsa", precision=precision)
    tokens_BT = random_tokens(2, 12)
    assert distance(hf.logits(tokens_BT), native.logits(tokens_BT)) < (SAME if precision == "fp32" else 0.1)


def quantised(directory: Path, block: int = 16) -> Path:
    """Store the attention's matrices as DeepSeek does: FP8 with an inverse scale per block."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    for name, weight in list(tensors.items()):
        if "self_attn" in name and weight.ndim == 2 and "weights_proj" not in name:
            rows, columns = (-(-size // block) for size in weight.shape)
            scale = torch.rand(rows, columns) / 400 + 1e-3
            whole = scale.repeat_interleave(block, 0).repeat_interleave(block, 1)[: weight.shape[0], : weight.shape[1]]
            tensors[name] = (weight / whole).clamp(-448, 448).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [block, block]}
    (directory / "config.json").write_text(json.dumps(config))
    return directory
