"""Which rule judges which metric of which cell: the `gate:` section of a suite, checked, looked up and put into words.

Names match exactly. A rule that never met a metric is a failure of the gate, not a quiet pass, so everything that
looks a rule up through `Rules.of` can ask afterwards which of them were never used.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from harness.errors import UsageError, unknown
from harness.records.metrics import METRICS
from harness.suite.document import Document
from harness.suite.load import LoadedSuite
from harness.suite.schema import Absolute, Difference, Exact, Gate, Limit, Points, Relative, Rule, fraction
from harness.suite.validate import convert
from harness.suite.variant import AXES, Variant


class Cell(Protocol):
    """What a rule looks at: a `Record` or a `CellId`."""

    @property
    def table(self) -> str:
        """The table's name."""

    @property
    def workload(self) -> dict[str, Any]:
        """The concrete workload, with its `kind`."""

    @property
    def variant(self) -> Variant:
        """The variant."""


class Rules:
    """All rules of one suite. `Rules.of_suite` and `Rules.of_stored` make them; both raise UsageError."""

    def __init__(self, gate: Gate, tables: Iterable[str], where: Callable[[int], str]) -> None:
        """`where(i)` names file and line of rule i. Raises UsageError for a rule that cannot be meant."""
        self.gate = gate
        self.where = where
        self._met: set[tuple[int, str]] = set()
        for index, rule in enumerate(gate.rules):
            _check(rule, list(tables), where(index))
        _check_overlaps(gate.rules, where)

    @classmethod
    def of_suite(cls, loaded: LoadedSuite) -> Rules:
        """The rules of a suite file."""
        gate = loaded.suite.gate
        if gate is None:
            raise UsageError("has no `gate:` section, so it gates nothing; docs/ci.md shows one", str(loaded.path))
        return cls(gate, loaded.suite.tables, lambda index: loaded.where("gate", "rules", index))

    @classmethod
    def of_stored(cls, suite: dict[str, Any], name: str) -> Rules:
        """The rules of the suite as a run stored it; `name` stands for the file in messages."""
        if not suite.get("gate"):
            raise UsageError("its suite had no `gate:` section; name a suite file that has one with --suite", name)
        gate = convert(Document(name, suite["gate"], {}), Gate)
        return cls(gate, suite.get("tables", {}), lambda index: f"{name}: gate.rules.{index}")

    def of(self, cell: Cell, metric: str) -> list[Rule]:
        """The rules of one metric of one cell: several when it has, say, a relative and an absolute limit."""
        found = [
            (index, rule)
            for index, rule in enumerate(self.gate.rules)
            if metric in names(rule.metrics) and covers(rule, cell)
        ]
        self._met |= {(index, metric) for index, _ in found}
        return [rule for _, rule in found]

    def metrics(self, cell: Cell) -> list[str]:
        """Every metric that some rule could judge in such a cell, whether or not it will have it."""
        covering = (rule for rule in self.gate.rules if covers(rule, cell))
        return list(dict.fromkeys(metric for rule in covering for metric in names(rule.metrics)))

    def unmet(self, seen: Iterable[str]) -> list[str]:
        """A sentence for every (rule, metric) that no lookup met; `seen` are the metrics that were there."""
        there = sorted(set(seen))
        return [
            f"{self.where(index)}: the {limit_name(rule)} rule for {metric!r} matched nothing"
            + _nearest(metric, [name for name in there if name != metric])
            for index, rule in enumerate(self.gate.rules)
            for metric in names(rule.metrics)
            if (index, metric) not in self._met
        ]


def covers(rule: Rule, cell: Cell) -> bool:
    """Whether a cell is among those that a rule is narrowed to."""
    given = {"tables": cell.table, "kinds": cell.workload["kind"], **dict(cell.variant.items())}
    return all(given[key] in wanted for key, wanted in _narrowed(rule).items())


def describe(rule: Rule, unit: str = "") -> str:
    """A limit in a few words; `unit` is the metric's.

    >>> describe(Relative(metrics="ttft"))
    'tolerate 1%, catch 5%'
    >>> describe(Absolute(metrics="kl", at_most=0.001), "nats")
    'at most 0.001 nats'
    """
    if isinstance(rule, Relative):
        return f"tolerate {rule.tolerate}, catch {rule.catch}"
    if isinstance(rule, Absolute):
        bounds = {"at least": rule.at_least, "at most": rule.at_most}
        texts = (f"{word} {bound:g} {unit}".rstrip() for word, bound in bounds.items() if bound is not None)
        return ", ".join(texts)
    if isinstance(rule, Exact):
        return "exact"
    unit = "points" if isinstance(rule, Points) else unit
    tolerate = f"tolerate {rule.tolerate:g}, " if rule.tolerate else ""
    return f"{tolerate}catch {rule.catch:g} {unit}".rstrip()


def margins(rule: Relative | Points | Difference) -> tuple[float, float]:
    """(tolerate, catch) in the metric's own terms: a fraction for ratios and for shares, else its unit."""
    if isinstance(rule, Relative):
        return fraction(rule.tolerate), fraction(rule.catch)
    scale = 100 if isinstance(rule, Points) else 1
    return rule.tolerate / scale, rule.catch / scale


def limit_name(rule: Limit) -> str:
    """The word that the suite file uses: `relative`, `absolute`, `points`, `difference`, `exact`."""
    return str(rule.__struct_config__.tag)


def names(given: str | Sequence[str] | None) -> list[str]:
    """One name or a list of names, as a list."""
    return [given] if isinstance(given, str) else list(given or ())


def _narrowed(rule: Rule) -> dict[str, list[str]]:
    """`tables`, `kinds` and axes that a rule is narrowed by, with the names that it takes."""
    wanted = {"tables": rule.tables, "kinds": rule.kinds, **{axis: getattr(rule.only, axis) for axis in AXES}}
    return {key: names(given) for key, given in wanted.items() if given is not None}


def _nearest(metric: str, there: Sequence[str]) -> str:
    near = difflib.get_close_matches(metric, there, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; metrics there: {', '.join(there) or 'none'}"


# --- what cannot be meant -----------------------------------------------------------------------------


def _check(rule: Rule, tables: Sequence[str], place: str) -> None:
    for table in names(rule.tables):
        if table not in tables:
            raise unknown("table", table, tables, place)
    if isinstance(rule, Absolute):
        _check_bounds(rule, place)
    elif not isinstance(rule, Exact):
        tolerate, catch = margins(rule)
        if tolerate >= catch:
            raise UsageError(f"tolerate has to be below catch, not {describe(rule)}", place)
    for metric in names(rule.metrics):
        _check_fit(rule, metric, place)


def _check_bounds(rule: Absolute, place: str) -> None:
    if rule.at_most is None and rule.at_least is None:
        raise UsageError("an absolute limit needs at_most or at_least", place)
    if rule.at_most is not None and rule.at_least is not None and rule.at_least > rule.at_most:
        raise UsageError(f"nothing is {describe(rule)}", place)


def _check_fit(rule: Rule, metric: str, place: str) -> None:
    """Limits that make no sense for a metric of the project's table; lm-eval's own metrics are not known here."""
    spec = METRICS.get(metric)
    if spec is None:
        return
    if isinstance(rule, Points) and spec.unit != "fraction":
        raise UsageError(f"{metric} is no share, so it has no points; write limit: difference", place)
    if isinstance(rule, Difference) and spec.unit == "fraction":
        raise UsageError(f"{metric} is a share; write limit: points, with catch in percentage points", place)
    if not isinstance(rule, Absolute | Exact) and spec.better == "neither":
        raise UsageError(f"{metric} has no direction; write limit: absolute or exact", place)


def _check_overlaps(rules: Sequence[Rule], where: Callable[[int], str]) -> None:
    for later, rule in enumerate(rules):
        for earlier, other in enumerate(rules[:later]):
            if type(rule) is type(other) and (metric := _meeting(rule, other)):
                raise UsageError(
                    f"a second {limit_name(rule)} rule for {metric!r} in the same cells; the first is at "
                    f"{where(earlier)}. Narrow them with tables, kinds or only",
                    where(later),
                )


def _meeting(rule: Rule, other: Rule) -> str | None:
    """A metric that both rules judge in some cell."""
    shared = [metric for metric in names(rule.metrics) if metric in names(other.metrics)]
    mine, theirs = _narrowed(rule), _narrowed(other)
    overlap = all(set(mine[key]) & set(theirs[key]) for key in mine.keys() & theirs.keys())
    return shared[0] if shared and overlap else None
