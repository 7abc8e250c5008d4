"""A suite's lists multiplied out: tables, each with complete variants, concrete workloads and their cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from harness.errors import UsageError, unknown
from harness.suite.cell import CellId
from harness.suite.load import LoadedSuite
from harness.suite.schema import Choice, Choices, Sampling, Table, Workload
from harness.suite.variant import AXES, Variant

EXPANDED_KEYS = ("tasks", "operator", "target", "weight", "tokens", "length", "batch")
"""Workload keys that may be lists, the slowest changing first."""


PLACES = ("length", "operator")
"""Keys that say best where a workload is written: the first that it has."""


class Names(Protocol):
    """What expansion asks the registry: complete and check names. Raises UsageError for unknown ones."""

    def variant(self, choices: Mapping[str, str], where: str | None = None) -> Variant:
        """The complete variant of some choices."""

    def option(self, axis: str, name: str, where: str | None = None) -> Any:
        """The option of one axis."""


@dataclass(frozen=True)
class ConcreteWorkload:
    """One length, one batch size, one task, one operator; `place` is where the suite gives its length or operator."""

    workload: Workload
    place: str

    @property
    def fields(self) -> dict[str, Any]:
        """Kind and every key that has a value, as stored in records."""
        given = {"kind": self.workload.__struct_config__.tag, **msgspec.structs.asdict(self.workload)}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def label(self) -> str:
        """Kind and keys in one phrase, such as `decode length=512 batch=1`; what is left at its default is left out."""
        keys = msgspec.to_builtins(self.workload)
        kind = keys.pop("kind")
        return " ".join([kind, *(f"{key}={value}" for key, value in keys.items())])


@dataclass(frozen=True)
class ExpandedTable:
    """One table of the suite, ready to be planned."""

    name: str
    question: str
    checkpoint: str
    """An absolute directory, or a preset's name."""
    place: str
    """Where the suite names the checkpoint."""
    sampling: Sampling
    baseline: Variant
    variants: list[Variant]
    workloads: list[ConcreteWorkload]

    def cell(self, workload: ConcreteWorkload, variant: Variant) -> CellId:
        """The id of one cell."""
        return CellId(self.name, workload.fields, variant)

    def cells(self) -> list[CellId]:
        """All cells: workload by workload, each under every variant."""
        return [self.cell(workload, variant) for workload in self.workloads for variant in self.variants]


def expand(loaded: LoadedSuite, names: Names, only: Sequence[str] = ()) -> list[ExpandedTable]:
    """All tables of a suite, narrowed by `only` (texts AXIS=NAME, or table=NAME).

    Names of one axis add up, axes narrow each other, and a table's baseline always stays, because the others are
    compared with it. Raises UsageError for unknown names, a baseline that is not among the variants, or when
    nothing is left.
    """
    wanted = _parse_only(only, loaded, names)
    tables = [_expand_table(loaded, name, names) for name in loaded.suite.tables]
    narrowed = [_narrow(table, wanted) for table in tables if table.name in wanted.get("table", [table.name])]
    left = [table for table in narrowed if table.variants]
    if not left:
        there = sorted({variant.id for table in tables for variant in table.variants})
        raise UsageError(f"no variant of the suite is left; it has: {', '.join(there)}", _flags(only))
    return left


def _expand_table(loaded: LoadedSuite, name: str, names: Names) -> ExpandedTable:
    table, path = loaded.suite.tables[name], ("tables", name)
    _check_rounds(table.sampling or loaded.suite.sampling, loaded, (*path, "sampling"))
    variants = _unique(
        variant
        for position, choices in enumerate(table.variants)
        for variant in _variants(choices, names, loaded, (*path, "variants", position))
    )
    return ExpandedTable(
        name=name,
        question=table.question,
        checkpoint=loaded.checkpoint(name),
        place=loaded.where(*path, "checkpoint"),
        sampling=table.sampling or loaded.suite.sampling,
        baseline=_baseline(table.baseline, variants, names, loaded, (*path, "baseline")),
        variants=variants,
        workloads=_workloads(table, loaded, (*path, "workloads")),
    )


def _check_rounds(sampling: Sampling, loaded: LoadedSuite, path: tuple[str | int, ...]) -> None:
    least, most = sampling.rounds, sampling.max_rounds
    if most is not None and most < least:
        raise UsageError(f"max_rounds {most} is below rounds {least}", loaded.where(*path, "max_rounds"))


def _variants(choices: Choices, names: Names, loaded: LoadedSuite, path: tuple[str | int, ...]) -> list[Variant]:
    """Every combination of the listed options, completed with the engine's defaults."""
    given = {axis: _as_list(getattr(choices, axis)) for axis in AXES if getattr(choices, axis) is not None}
    for axis, options in given.items():
        for position, option in enumerate(options):
            names.option(axis, option, loaded.where(*path, axis, position))
    combinations = itertools.product(*given.values())
    return [names.variant(dict(zip(given, chosen, strict=True)), loaded.where(*path)) for chosen in combinations]


def _baseline(
    choice: Choice, variants: list[Variant], names: Names, loaded: LoadedSuite, path: tuple[str | int, ...]
) -> Variant:
    given = {axis: getattr(choice, axis) for axis in AXES if getattr(choice, axis) is not None}
    for axis, option in given.items():
        names.option(axis, option, loaded.where(*path, axis))
    baseline = names.variant(given, loaded.where(*path))
    if baseline not in variants:
        there = ", ".join(variant.id for variant in variants)
        raise UsageError(f"the baseline {baseline.id} is not among the variants: {there}", loaded.where(*path))
    return baseline


def _workloads(table: Table, loaded: LoadedSuite, path: tuple[str | int, ...]) -> list[ConcreteWorkload]:
    unique: dict[bytes, ConcreteWorkload] = {}
    for position, workload in enumerate(table.workloads):
        for chosen in _combinations(workload):
            key = next((key for key in PLACES if key in chosen), "kind")
            entry = _as_list(getattr(workload, key)).index(chosen[key]) if key in chosen else 0
            place = loaded.where(*path, position, key, entry)
            one = ConcreteWorkload(msgspec.structs.replace(workload, **chosen), place)
            unique.setdefault(msgspec.json.encode(one.fields), one)
    return list(unique.values())


def _combinations(workload: Workload) -> Iterable[dict[str, Any]]:
    lists = {key: _as_list(getattr(workload, key)) for key in EXPANDED_KEYS if getattr(workload, key, None) is not None}
    return (dict(zip(lists, chosen, strict=True)) for chosen in itertools.product(*lists.values()))


def _parse_only(only: Sequence[str], loaded: LoadedSuite, names: Names) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in only:
        axis, equals, name = text.partition("=")
        place = f"--only {text}"
        if not equals:
            raise UsageError("allowed: AXIS=NAME, such as form=mqa, or table=NAME", place)
        if axis == "table" and name not in loaded.suite.tables:
            raise unknown("table", name, loaded.suite.tables, place)
        if axis not in (*AXES, "table"):
            raise unknown("axis", axis, (*AXES, "table"), place)
        if axis != "table":
            names.option(axis, name, place)
        wanted.setdefault(axis, []).append(name)
    return wanted


def _narrow(table: ExpandedTable, wanted: Mapping[str, Sequence[str]]) -> ExpandedTable:
    axes = [axis for axis in wanted if axis != "table"]
    chosen = [variant for variant in table.variants if all(getattr(variant, axis) in wanted[axis] for axis in axes)]
    kept = [variant for variant in table.variants if chosen and (variant in chosen or variant == table.baseline)]
    return replace(table, variants=kept)


def _flags(only: Sequence[str]) -> str | None:
    return " ".join(f"--only {text}" for text in only) or None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _unique(items: Iterable[Variant]) -> list[Variant]:
    return list(dict.fromkeys(items))
