"""From a config, the parts of a variant and a source of tensors to a model with weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.contract.config import ModelConfig
from harness.contract.precision import StoresExperts, StoresWeight
from harness.model.checkpoint import Tensors
from harness.model.layers import Parts
from harness.model.mtp import add_mtp
from harness.model.parameters import stacks
from harness.model.transformer import CausalLm


def build_model(config: ModelConfig, parts: Parts, tensors: Tensors, device: str = "cpu") -> CausalLm:
    """A model with every tensor loaded, each in the format that the precision gives its place.

    It has multi-token-prediction layers when they are among the `tensors`. Raises UsageError for a stored format that
    the precision cannot keep.
    """
    model = CausalLm(config, parts, device)
    if tensors.mtp:
        add_mtp(model)
    stacked = stacks(config, tensors.mtp)
    members = {name for rows in stacked.values() for row in rows for name in row}
    for name in tensors.names():
        if name not in members:
            _load(model, name, tensors, device)
    for name, rows in stacked.items():  # routed experts, stacked (see `parameters`)
        _load_stack(model, name, rows, tensors, device)
    return model


def _load(model: CausalLm, name: str, tensors: Tensors, device: str) -> None:
    module, leaf = _place(model, name)
    if leaf == "weight" and isinstance(module, StoresWeight):
        module.store(tensors.stored(name), device)
    else:
        _assign(module, name, tensors.get(name).to(getattr(module, leaf).dtype), device)


def _load_stack(model: CausalLm, name: str, rows: list[list[str]], tensors: Tensors, device: str) -> None:
    """Expert by expert, so that no second copy of all experts exists."""
    module, leaf = _place(model, name)
    if isinstance(module, StoresExperts):
        for expert, names in enumerate(rows):
            module.store_expert(leaf, expert, [tensors.stored(each) for each in names], device)
        return
    empty: Tensor = getattr(module, leaf)
    stacked = torch.empty(empty.shape, dtype=empty.dtype)
    for expert, names in enumerate(rows):
        torch.cat([tensors.get(each).to(empty.dtype) for each in names], out=stacked[expert])
    _assign(module, name, stacked, device)


def _place(model: CausalLm, name: str) -> tuple[nn.Module, str]:
    """The module that a tensor belongs to, and what it is called there."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _assign(module: nn.Module, name: str, tensor: Tensor, device: str) -> None:
    """Put a tensor in the place of an empty one of the same shape."""
    leaf = name.rpartition(".")[2]
    empty = getattr(module, leaf)
    assert empty.shape == tensor.shape, f"{name}: {tuple(empty.shape)} from the model, {tuple(tensor.shape)} loaded"
    tensor = tensor.to(device)
    setattr(module, leaf, nn.Parameter(tensor) if isinstance(empty, nn.Parameter) else tensor)
