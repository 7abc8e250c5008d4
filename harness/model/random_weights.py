"""Seeded random weights for presets: sane activations at any size, and the same whatever is loaded first."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from harness.model.parameters import Shape


def random_tensor(seed: int, name: str, shape: Shape) -> Tensor:
    """FP32 content of the tensor called `name`.

    Normal numbers under a generator seeded with sha256("seed/name"), scaled so that activations keep unit size:
    matrices by fan_in^-0.5, embeddings by 1; norm weights are 1 + 0.1 z and biases 0.1 z, so that none is without
    effect (the router's correction bias, which is compared with affinities, 0.01 z).
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    noise = torch.randn(shape, generator=generator)
    if name.endswith("e_score_correction_bias"):
        return noise.mul_(0.01)
    if name.endswith(".bias"):
        return noise.mul_(0.1)
    if len(shape) == 1:
        return noise.mul_(0.1).add_(1)
    return noise if "embed_tokens" in name else noise.mul_(shape[-1] ** -0.5)
