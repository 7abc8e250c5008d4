"""Write a model as a plain Hugging Face directory that transformers opens without remote code."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.model.mtp import mtp_layers
from harness.model.parameters import disk_shapes, stacks
from harness.model.transformer import CausalLm


def write_checkpoint(model: CausalLm, directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and model.safetensors, routed experts one by one, as Hugging Face names them.

    `dtype` is that of the matrices; vectors, router and the indexer's head weights are written in FP32, as they are
    computed with. Raises OSError when it cannot write.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = {"dtype": str(dtype).removeprefix("torch."), "num_nextn_predict_layers": len(mtp_layers(model))}
    config = model.config.to_hf() | kept
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(disk_tensors(model, dtype), directory / "model.safetensors", metadata={"format": "pt"})


def disk_tensors(model: CausalLm, dtype: torch.dtype) -> dict[str, Tensor]:
    """What `write_checkpoint` stores, in its types; tensors that already have theirs are not copied."""
    return {name: _stored(name, tensor, dtype) for name, tensor in on_disk(model).items()}


def on_disk(model: CausalLm) -> dict[str, Tensor]:
    """The model's tensors under their names on disk; parts of stacked tensors are views."""
    tensors, mtp = dict(model.state_dict()), bool(mtp_layers(model))
    for name, rows in stacks(model.config, mtp).items():
        stacked = tensors.pop(name)
        for expert, names in enumerate(rows):
            tensors |= dict(zip(names, stacked[expert].chunk(len(names)), strict=True))
    return {name: tensors[name] for name in disk_shapes(model.config, mtp)}


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    kept = tensor.ndim == 1 or name.endswith(("mlp.gate.weight", "indexer.weights_proj.weight"))
    return tensor.detach().cpu().to(torch.float32 if kept else dtype).contiguous()
