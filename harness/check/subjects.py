"""Which variants and tiny models stand for an option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product

from harness.check.subject import Subject, Workbench
from harness.contract.registry import BUILT_IN, Registry
from harness.errors import UsageError
from harness.model.presets import PRESETS
from harness.suite.variant import AXES, Variant

MODELS = {"tiny-v32": 2, "tiny-v2": 0, "tiny-v2-lite": 0, "tiny-v3": 0, "tiny-glm": 0}
"""Preset -> on how many axes a variant may differ from its engine's defaults, besides the option under check.

V3.2 has every feature, so pairs of choices are tried on it; the other members of the family see the option alone.
"""


@dataclass(frozen=True, order=True)
class OptionName:
    """An option of the registry by its two names."""

    axis: str
    name: str

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.axis}={self.name}"


DEAR_PAIR = ("form", "selector")
"""The one pair of axes on which an option that is checked apart is tried: between them they call every operator."""


def all_options(registry: Registry) -> list[OptionName]:
    """Every registered option that is not checked apart, in the order of the axes."""
    return [
        OptionName(axis, option.name) for axis in AXES for option in registry.options(axis) if not option.checked_apart
    ]


def subjects_of(option: OptionName, bench: Workbench) -> list[Subject]:
    """The subjects that stand for an option: it, and built-in options on all other axes."""
    return [
        Subject(bench, variant, model, PRESETS[model])
        for model, changes in _models(option, bench.registry).items()
        for variant in _variants(option, bench.registry, changes)
        if not bench.unsupported(variant, PRESETS[model])
    ]


def reasons_against(option: OptionName, bench: Workbench) -> list[str]:
    """Why the option runs in no variant here: the reasons of the variant that lacks least, on the first model."""
    model = next(iter(MODELS))
    found = [bench.unsupported(variant, PRESETS[model]) for variant in _variants(option, bench.registry, 2)]
    return min(found, key=len, default=[f"{option} makes no whole variant: its engine has no default for some axis"])


def _models(option: OptionName, registry: Registry) -> dict[str, int]:
    """All of them; for an option that is checked apart the first, which has every feature."""
    dear = registry.option(option.axis, option.name).checked_apart
    return dict(list(MODELS.items())[:1]) if dear else MODELS


def _variants(option: OptionName, registry: Registry, changes: int) -> Iterator[Variant]:
    """The option under every engine's defaults, with at most `changes` other axes changed."""
    dear = bool(registry.option(option.axis, option.name).checked_apart)
    others = {axis: _built_in(registry, axis) for axis in AXES if axis not in ("engine", option.axis)}
    for engine in [option.name] if option.axis == "engine" else _built_in(registry, "engine"):
        try:
            base = registry.variant({"engine": engine, option.axis: option.name})
        except UsageError:  # an engine that has no default for some axis
            continue
        for count in range(changes + 1):
            for axes in _combinations(list(others), count, dear):
                yield from _changed(base, {axis: others[axis] for axis in axes})


def _combinations(axes: list[str], count: int, dear: bool) -> Iterator[tuple[str, ...]]:
    for chosen in combinations(axes, count):
        if count < 2 or not dear or set(chosen) == set(DEAR_PAIR):
            yield chosen


def _changed(base: Variant, choices: Mapping[str, list[str]]) -> Iterator[Variant]:
    """`base` with every axis of `choices` on another option than before."""
    different = [[name for name in names if name != getattr(base, axis)] for axis, names in choices.items()]
    for names in product(*different):
        yield base.with_options(dict(zip(choices, names, strict=True)))


def _built_in(registry: Registry, axis: str) -> list[str]:
    options = [option for option in registry.options(axis) if not option.checked_apart]
    return [option.name for option in options if registry.source(axis, option.name) in BUILT_IN]
