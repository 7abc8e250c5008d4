"""Hugging Face directories as they are found: sharded, fused, FP8, with extra layers, and broken in every way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import load_runner
from harness.contract import ModelConfig
from harness.errors import UsageError
from harness.model.checkpoint import open_tensors
from harness.model.export import write_checkpoint
from harness.model.presets import PRESETS
from tests.support.checkpoints import random_tokens
from tests.support.running import relative_l2

TOKENS = random_tokens(2, 21)


@pytest.fixture
def copy(checkpoint: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """`copy(model_type, edit)`: a checkpoint of its own, its tensors changed by `edit(tensors)`."""

    def make(model_type: str, edit: Callable[[dict[str, torch.Tensor]], Any] | None = None) -> Path:
        directory = Path(shutil.copytree(checkpoint(model_type), tmp_path / "checkpoint"))
        if edit is not None:
            tensors = load_file(directory / "model.safetensors")
            edit(tensors)
            save_file(tensors, directory / "model.safetensors")
        return directory

    return make


def _logits(directory: Path | str) -> torch.Tensor:
    return load_runner(str(directory), form="mqa").logits(TOKENS)


def test_sharded_equals_single(checkpoint: Callable[..., str]) -> None:
    sharded = checkpoint("deepseek_v3", max_shard_size="20KB")
    assert len(list(Path(sharded).glob("*.safetensors"))) > 3
    assert torch.equal(_logits(sharded), _logits(checkpoint("deepseek_v3")))


def test_stacked_experts_on_disk_equal_single_ones(copy: Callable[..., Path], checkpoint: Callable[..., str]) -> None:
    """transformers can save its stacked tensors as they are in memory."""

    def stack(tensors: dict[str, torch.Tensor]) -> None:
        prefix = "model.layers.1.mlp.experts"
        experts = [
            [tensors.pop(f"{prefix}.{e}.{part}_proj.weight") for part in ("gate", "up", "down")] for e in range(8)
        ]
        tensors[f"{prefix}.gate_up_proj"] = torch.stack([torch.cat([gate, up]) for gate, up, _ in experts])
        tensors[f"{prefix}.down_proj"] = torch.stack([down for _, _, down in experts])

    assert torch.equal(_logits(copy("deepseek_v3", stack)), _logits(checkpoint("deepseek_v3")))


def test_a_prediction_layer_and_rotary_frequencies_are_ignored(
    copy: Callable[..., Path], checkpoint: Callable[..., str]
) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.2.eh_proj.weight"] = torch.zeros(3)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)

    assert torch.equal(_logits(copy("deepseek_v3", add)), _logits(checkpoint("deepseek_v3")))


def test_a_tied_head_that_is_stored_all_the_same_is_ignored(checkpoint: Callable[..., str], tmp_path: Path) -> None:
    tied = checkpoint("deepseek_v3", tie_word_embeddings=True)
    directory = Path(shutil.copytree(tied, tmp_path / "stored"))
    tensors = load_file(directory / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = torch.full((131, 64), 7.0)
    save_file(tensors, directory / "model.safetensors")
    assert torch.equal(_logits(directory), _logits(tied))


# --- FP8 ------------------------------------------------------------------------------------------------

BLOCK = 16


def _quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An independent writer, block by block: FP8 weight, scale per block, and what they stand for."""
    quantised, meant = torch.empty_like(weight, dtype=torch.float8_e4m3fn), torch.empty_like(weight)
    rows, columns = -(-weight.shape[0] // BLOCK), -(-weight.shape[1] // BLOCK)
    scales = torch.empty(rows, columns)
    for i in range(rows):
        for j in range(columns):
            place = slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK)
            scales[i, j] = weight[place].abs().max() / 448
            quantised[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
            meant[place] = quantised[place].float() * scales[i, j]
    return quantised, scales, meant


def _fp8_pair(copy: Callable[..., Path]) -> tuple[Path, Path]:
    """A checkpoint in block-scaled FP8, and the same with the numbers that it means written in FP32."""
    directory = copy("deepseek_v3")
    plain = Path(shutil.copytree(directory, directory.parent / "plain"))
    tensors, meant = load_file(directory / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        meant[name] = weight
        if weight.ndim == 2 and "proj" in name:
            tensors[name], tensors[name + "_scale_inv"], meant[name] = _quantise(weight)
    save_file(tensors, directory / "model.safetensors")
    save_file(meant, plain / "model.safetensors")
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}
    _edit_config(directory, quantization_config=quantization)
    return directory, plain


def _edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_fp8_weights_are_dequantised(copy: Callable[..., Path]) -> None:
    quantised, plain = _fp8_pair(copy)
    assert torch.equal(_logits(quantised), _logits(plain))
    config = ModelConfig.read(quantised)
    weight = open_tensors(str(quantised), config).get("model.layers.0.mlp.gate_proj.weight")
    assert weight.dtype == torch.float32


def test_fp8_without_its_scale_or_config(copy: Callable[..., Path]) -> None:
    quantised, _ = _fp8_pair(copy)
    _edit_config(quantised, quantization_config=None)
    with pytest.raises(UsageError, match=r"stored as F8_E4M3, but config\.json has no quantization_config"):
        _logits(quantised)
    _edit_config(quantised, quantization_config={"quant_method": "fp8", "weight_block_size": [32, 32]})
    with pytest.raises(UsageError, match=r"weight_scale_inv has shape \[\d+, \d+\], expected"):
        _logits(quantised)
    _edit_config(quantised, quantization_config={"quant_method": "gptq"})
    with pytest.raises(UsageError, match="unknown quant_method 'gptq'"):
        _logits(quantised)
    tensors = load_file(quantised / "model.safetensors")
    del tensors["model.layers.0.self_attn.o_proj.weight_scale_inv"]
    save_file(tensors, quantised / "model.safetensors")
    _edit_config(quantised, quantization_config={"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]})
    with pytest.raises(UsageError, match=r"o_proj\.weight_scale_inv is missing"):
        _logits(quantised)


# --- broken directories ---------------------------------------------------------------------------------


def test_missing_misshapen_and_unknown_tensors_are_all_named(copy: Callable[..., Path]) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.experts.3.up_proj.weight"]
        tensors["model.norm.weight"] = torch.ones(63)
        tensors["model.layers.0.self_attn.q_a_projj.weight"] = torch.zeros(1)
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(96, 64, dtype=torch.int8)

    directory = copy("deepseek_v3", spoil)
    with pytest.raises(UsageError) as error:
        _logits(directory)
    message = str(error.value)
    assert message.startswith(str(directory))
    assert "model.layers.1.mlp.experts.3.up_proj.weight [24, 64] is missing (files: model.safetensors)" in message
    assert "model.safetensors: model.norm.weight has shape [63], expected [64]" in message
    assert "unknown tensor 'model.layers.0.self_attn.q_a_projj.weight'; did you mean 'model.layers.0" in message
    assert "model.layers.0.mlp.up_proj.weight is stored as I8; allowed: BF16, F16, F32, F64, F8_E4M3" in message


def test_a_v32_checkpoint_under_a_v3_config_is_refused(copy: Callable[..., Path]) -> None:
    directory = copy("deepseek_v32")
    _edit_config(directory, model_type="deepseek_v3", index_topk=None)
    with pytest.raises(UsageError, match=r"unknown tensor 'model.layers.0.self_attn.indexer"):
        _logits(directory)


def test_a_stack_with_too_few_experts(copy: Callable[..., Path]) -> None:
    def stack(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.experts.gate_up_proj"] = torch.zeros(7, 48, 64)

    with pytest.raises(UsageError, match=r"gate_up_proj has shape \[7, 48, 64\], expected 8 stacked experts"):
        _logits(copy("deepseek_v3", stack))


def test_pickled_weights_are_refused(copy: Callable[..., Path]) -> None:
    directory = copy("deepseek_v3")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"it has pytorch_model.bin, which is pickled: convert it to safetensors"):
        _logits(directory)


def test_a_truncated_file(copy: Callable[..., Path]) -> None:
    directory = copy("deepseek_v3")
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="not a readable safetensors file") as error:
        _logits(directory)
    assert error.value.where == str(path)


def test_a_shard_that_is_not_there(checkpoint: Callable[..., str], tmp_path: Path) -> None:
    source = checkpoint("deepseek_v3", max_shard_size="20KB")
    directory = Path(shutil.copytree(source, tmp_path / "checkpoint"))
    lost = sorted(directory.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(UsageError, match=f"names files that are not there: {lost.name}"):
        _logits(directory)
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match="not an index with a weight_map"):
        _logits(directory)


# --- writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("tiny")])
def test_what_is_written_is_read_back_and_opened_by_transformers(preset: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    selector = "dsa" if PRESETS[preset].has_indexer else "dense"
    runner: Any = load_runner(preset, form="mha", selector=selector, seed=3)
    write_checkpoint(runner.model, tmp_path)
    assert ModelConfig.read(tmp_path) == msgspec.structs.replace(PRESETS[preset], num_nextn_predict_layers=0)
    tokens_BT = random_tokens(2, 30, vocab_size=128)
    expected_BTV = runner.logits(tokens_BT)
    again = load_runner(str(tmp_path), form="mha", selector=selector)
    assert torch.equal(again.logits(tokens_BT), expected_BTV)
    with torch.no_grad():
        peer_BTV = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(tokens_BT).logits
    assert relative_l2(peer_BTV, expected_BTV) < 1e-5


def test_written_in_bf16_some_tensors_stay_in_fp32(tmp_path: Path) -> None:
    runner: Any = load_runner("tiny-v32")
    write_checkpoint(runner.model, tmp_path, torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    assert dtypes["model.layers.1.mlp.gate.e_score_correction_bias"] == torch.float32
    assert dtypes["model.layers.1.self_attn.indexer.weights_proj.weight"] == torch.float32
    assert dtypes["model.layers.1.mlp.experts.0.up_proj.weight"] == torch.bfloat16
