"""Slots sorted by expert, against a list of lists."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.triton_kernels.expert_blocks import expert_blocks, most_blocks
from torch import Tensor


def _routing(tokens: int, chosen: int, experts: int, what: str) -> Tensor:
    generator = torch.Generator().manual_seed(tokens)
    if what == "all to one":
        return torch.full((tokens, chosen), experts - 1)
    spread = torch.rand(tokens, experts, generator=generator)
    if what == "few hit":
        spread[:, : experts - chosen] = 0  # the first experts get nothing
    return spread.argsort(-1, descending=True)[:, :chosen]


@pytest.mark.parametrize("what", ["random", "all to one", "few hit"])
@pytest.mark.parametrize(("tokens", "chosen", "experts"), [(1, 1, 1), (1, 3, 7), (9, 2, 5), (70, 4, 6)])
@pytest.mark.parametrize("size", [4, 16])
def test_every_slot_stands_once_in_a_block_of_its_expert(
    tokens: int, chosen: int, experts: int, size: int, what: str, device: str
) -> None:
    experts_MA = _routing(tokens, chosen, experts, what)
    blocks = expert_blocks(experts_MA.to(device), experts, size)
    flat, expected, owners = experts_MA.flatten().tolist(), [], []
    for expert in range(experts):
        slots = [slot for slot, owner in enumerate(flat) if owner == expert]
        slots += [-1] * (-len(slots) % size)
        expected += slots
        owners += [expert] * (len(slots) // size)
    assert blocks.blocks == most_blocks(len(flat), experts, size) >= len(owners)
    assert blocks.experts_p.tolist() == owners + [-1] * (blocks.blocks - len(owners))
    assert blocks.slots_P[: len(expected)].tolist() == expected


@pytest.mark.parametrize("size", [2, 4])
def test_as_many_blocks_as_the_worst_routing_needs(size: int) -> None:
    def needed(counts: list[int]) -> int:
        return sum(-(-count // size) for count in counts)

    def routings(slots: int, experts: int) -> list[list[int]]:
        if experts == 1:
            return [[slots]]
        return [[first, *rest] for first in range(slots + 1) for rest in routings(slots - first, experts - 1)]

    for slots in range(1, 9):
        for experts in (1, 2, 3):
            assert max(map(needed, routings(slots, experts))) == most_blocks(slots, experts, size)


def test_a_strided_routing(device: str) -> None:
    wide = torch.tensor([[1, 0, 9], [0, 1, 9], [1, 1, 9]], device=device)
    blocks = expert_blocks(wide[:, :2], 2, 4)
    assert blocks.slots_P[:8].tolist() == [1, 2, -1, -1, 0, 3, 4, 5]
    assert blocks.experts_p.tolist() == [0, 1, -1]
