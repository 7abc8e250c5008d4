"""Checkpoints with FP8 weights, written block by block without any of the project's own code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.checkpoints import save_checkpoint

WIDE = {
    "hidden_size": 256,
    "intermediate_size": 200,
    "moe_intermediate_size": 136,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
"""Dimensions with more than one block of 128, some of them partial."""

Scales = Callable[[str, Tensor], Tensor]


def write_fp8(
    directory: Path, model_type: str, block: int = 128, power_of_two: bool = False, **overrides: Any
) -> tuple[Path, Path]:
    """An FP8 checkpoint of random weights, and one in FP32 with the numbers that it means."""
    plain = save_checkpoint(directory / "meant", model_type, **{**WIDE, **overrides})
    quantised = Path(shutil.copytree(plain, directory / "fp8"))
    stored, meant = load_file(plain / "model.safetensors"), {}
    for name, weight in list(stored.items()):
        meant[name] = weight
        if (weight.ndim == 2 and "proj" in name.split(".")[-2] and "weights_proj" not in name) or ".indexer.w" in name:
            stored[name], stored[f"{name}_scale_inv"], meant[name] = quantised_by_loops(weight, block, power_of_two)
    meant = {name: meant[name].contiguous() for name in meant}
    save_file(stored, quantised / "model.safetensors")
    save_file(meant, plain / "model.safetensors")
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [block, block]}
    (quantised / "config.json").write_text(json.dumps(config))
    return quantised, plain


def quantised_by_loops(weight: Tensor, block: int, power_of_two: bool) -> tuple[Tensor, Tensor, Tensor]:
    """FP8 weight, scale per block, and what they stand for."""
    values, meant = torch.empty_like(weight, dtype=torch.float8_e4m3fn), torch.empty_like(weight)
    scales = torch.empty(-(-weight.shape[0] // block), -(-weight.shape[1] // block))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block)
            scale = weight[place].abs().max() / 448
            scales[i, j] = 2.0 ** scale.log2().ceil() if power_of_two else scale
            values[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
            meant[place] = values[place].float() * scales[i, j]
    return values, scales, meant


def edit_scales(directory: Path, change: Scales) -> None:
    """Rewrite every scale of a checkpoint: `change(name, scales)`."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    changed = {
        name: change(name, tensor).contiguous() if name.endswith("_scale_inv") else tensor
        for name, tensor in tensors.items()
    }
    save_file(changed, path)
