"""What a plugin adds: an option, one choice on one axis. Torch-free: the factory is named, not imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.contract.config import ModelConfig
from harness.contract.facts import MachineFacts
from harness.suite.variant import Variant


@dataclass(frozen=True)
class Query:
    """The question put to `Option.unsupported`: can this variant of this model run on this machine?"""

    variant: Variant
    config: ModelConfig
    facts: MachineFacts


def nothing_needed(_: MachineFacts) -> Mapping[str, str]:
    """The default answer: a process needs no variable of its own."""
    return {}


def always_supported(_: Query) -> Sequence[str]:
    """The default answer: no reason against it."""
    return ()


@dataclass(frozen=True)
class Option:
    """One choice on one axis.

    `factory` is `"package.module:attribute"`, imported only in the worker that runs the variant, or a
    function that takes no argument and imports inside. What it must be depends on the axis:

    ===========  =======================================================================================
    axis         the factory names
    ===========  =======================================================================================
    engine       a function `(EngineRequest) -> harness.contract.runner.Runner`
    form         a `harness.contract.attention.Form` instance
    selector     a `harness.contract.attention.Selector` instance
    precision    a `harness.contract.precision.Precision` instance
    cache        a `harness.contract.cache.CacheFormat` instance
    kernels      a `harness.contract.operators.Operators` instance
    decoding     a `harness.contract.runner.Decoding` instance
    ===========  =======================================================================================

    `unsupported` returns *every* reason why the variant cannot run, each a short sentence; empty when it can.
    """

    axis: str
    name: str
    factory: str | Callable[[], Any]
    summary: str
    unsupported: Callable[[Query], Sequence[str]] = always_supported
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Engines only: the option that this engine takes on each axis that a suite does not name."""
    reference_only: bool = False
    """True for options that exist as an oracle (such as fp64) and are never timed."""
    checked_apart: str = ""
    """Why the conformance kit leaves this option out unless it is named: what checking it costs, or needs."""

    environment: Callable[[MachineFacts], Mapping[str, str]] = nothing_needed
    """Variables that a process on such a machine must be started with, for what is decided when a library is first
    imported. Not for settings: whoever reads a record cannot see them."""

    def load(self) -> Any:
        """Import and return what the factory names. Raises ImportError with the missing name."""
        if callable(self.factory):
            return self.factory()
        module, _, attribute = self.factory.partition(":")
        return getattr(importlib.import_module(module), attribute)
