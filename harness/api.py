"""The Python API: a runner for one checkpoint under one variant, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.contract.config import ModelConfig
from harness.contract.facts import MachineFacts
from harness.contract.options import Query
from harness.contract.registry import Registry
from harness.errors import UnsupportedError
from harness.model.presets import resolve

if TYPE_CHECKING:
    from harness.contract.runner import Runner


def load_runner(
    checkpoint: str | Path,
    *,
    engine: str = "native",
    form: str | None = None,
    selector: str | None = None,
    precision: str | None = None,
    cache: str | None = None,
    kernels: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    plugins: Sequence[str] = (),
) -> Runner:
    """Build a runner from a Hugging Face directory or the name of a preset.

    Axes that are not given take the engine's default. `seed` is that of a preset's weights. Raises UsageError for
    unknown names and unusable checkpoints, UnsupportedError with every reason for combinations that cannot run.
    """
    from harness.contract.runner import EngineRequest

    registry = Registry(plugins)
    given = {"form": form, "selector": selector, "precision": precision, "cache": cache, "kernels": kernels}
    chosen = {axis: name for axis, name in given.items() if name is not None}
    variant = registry.variant({"engine": engine, **chosen})
    config: ModelConfig = resolve(str(checkpoint))
    reasons = registry.unsupported(Query(variant, config, _facts(device)))
    if reasons:
        raise UnsupportedError(variant.id, reasons)
    build = registry.option("engine", variant.engine).load()
    return build(EngineRequest(str(checkpoint), config, variant, registry.load(variant), device, seed))


def _facts(device: str) -> MachineFacts:
    from harness.run.machine import collect

    return collect(device)
