"""From a config, the parts of a variant and a source of tensors to a model with weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.contract.config import ModelConfig
from harness.model.checkpoint import Tensors
from harness.model.layers import Parts
from harness.model.mtp import add_mtp
from harness.model.parameters import stacks
from harness.model.transformer import CausalLm


def build_model(config: ModelConfig, parts: Parts, tensors: Tensors, device: str = "cpu") -> CausalLm:
    """A model with every tensor loaded, each in the dtype that the precision gives its place.

    It has multi-token-prediction layers when they are among the `tensors`.
    """
    model = CausalLm(config, parts, device)
    if tensors.mtp:
        add_mtp(model)
    for name, tensor in in_memory(config, tensors, _dtypes(model)):
        _assign(model, name, tensor.to(device))
    return model


def in_memory(config: ModelConfig, tensors: Tensors, dtypes: dict[str, torch.dtype]) -> Iterator[tuple[str, Tensor]]:
    """(in-memory name, tensor) for every parameter and buffer, routed experts stacked (see `parameters`)."""
    stacked = stacks(config, tensors.mtp)
    members = {name for rows in stacked.values() for row in rows for name in row}
    for name in tensors.names():
        if name not in members:
            yield name, tensors.get(name).to(dtypes[name])
    for name, rows in stacked.items():
        yield name, _stack(tensors, rows, dtypes[name])


def _stack(tensors: Tensors, rows: list[list[str]], dtype: torch.dtype) -> Tensor:
    """Fill the stack expert by expert, so that no second copy of all experts exists."""
    first = torch.cat([tensors.get(name) for name in rows[0]])
    stacked = torch.empty(len(rows), *first.shape, dtype=dtype)
    for index, names in enumerate(rows):
        torch.cat([tensors.get(name).to(dtype) for name in names], out=stacked[index])
    return stacked


def _dtypes(model: CausalLm) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in model.state_dict().items()}


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of an empty one of the same shape."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    empty = getattr(module, leaf)
    assert empty.shape == tensor.shape, f"{name}: {tuple(empty.shape)} from the model, {tuple(tensor.shape)} loaded"
    value = nn.Parameter(tensor) if isinstance(empty, nn.Parameter) else tensor
    setattr(module, leaf, value)
