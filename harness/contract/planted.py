"""Defects that are planted on purpose, so that everybody can see what a gate catches. Torch-free."""

from __future__ import annotations

import msgspec


class Planted(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong with a variant that is otherwise the real one; `harness.measure.planted` does it."""

    slower: float = 0.0
    """Share of a call's own time that it works longer, such as 0.05: real products."""
    share: float = 1.0
    """Share of the calls that work longer, drawn at random; below 1 the slow-down is bimodal."""
    memory_bytes: int = 0
    """Bytes held, and touched, beside every state."""
    wrong: float = 0.0
    """Share of documents whose scores are spoilt by noise."""
    noise: float = 1.0
    """Standard deviation of that noise, in nats a token."""
