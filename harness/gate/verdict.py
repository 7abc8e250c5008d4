"""What a gate says: one finding a question, all of them in a report, and the exit code that follows.

A finding is one metric of one cell judged by one rule. Everything that compares (stored runs, a run and a baseline,
two code versions measured side by side) fills the same structs, and every output is made from them alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal

import msgspec

from harness.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE

EXIT_INCONCLUSIVE = 3
"""Nothing is known to be worse, but not everything could be decided, or the machine was unfit to decide it."""

STATUS = "status"
"""The one quantity that needs no rule: how a cell ended. A cell that passed before and fails now is a regression."""


class Verdict(StrEnum):
    """The answer to one question."""

    PASS = "pass"
    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    INCONCLUSIVE = "inconclusive"
    """The data allow neither "worse" nor "not worse"."""
    INCOMPARABLE = "incomparable"
    """The two sides differ in something that is not the question; `reasons` lists what."""
    BROKEN = "broken"
    """The question could not be asked: a metric, a cell or its documents are missing on one side."""


class Interval(msgspec.Struct, frozen=True):
    """Where the true ratio or difference lies, at `confidence` (two-sided)."""

    low: float | None
    """None, or infinite, where nothing bounds it; JSON writes null for both."""
    high: float | None
    confidence: float

    @property
    def bounded(self) -> bool:
        """Whether both ends are numbers."""
        return all(end is not None and math.isfinite(end) for end in (self.low, self.high))


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much a verdict rests on."""

    count: int
    unit: str
    """What was counted: `pairs`, `documents`, `clusters`, `turns`, `values`."""
    groups: int | None = None
    """Independent units among them, where that is fewer: processes, clusters."""
    group_unit: str | None = None
    """What the groups are: `processes`, `clusters`."""
    detectable: float | None = None
    """The smallest loss that so much evidence would have shown with 80% chance: relative, or in the finding's unit."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric of one cell, judged by one rule."""

    cell: str
    """The cell's id, `table:kind[...]:variant`."""
    metric: str
    rule: str
    """The limit as text, such as `tolerate 1%, catch 5%`."""
    verdict: Verdict
    unit: str = ""
    better: str = "lower"
    """`lower`, `higher` or `neither`."""
    base: float | None = None
    """The former value, in `unit`."""
    new: float | None = None
    scale: Literal["ratio", "difference", "value"] = "value"
    """What `estimate` and `interval` are: new over base, new less base, or the new value itself."""
    estimate: float | None = None
    interval: Interval | None = None
    evidence: Evidence | None = None
    seconds: float = 0.0
    """Time spent measuring for this finding, both sides."""
    timed: bool = False
    """True when the verdict rests on a clock, so that an unfit machine discredits it."""
    reasons: list[str] = []
    waiver: str | None = None
    """The waiver that covers this regression, as text; None where none does."""

    @property
    def worse_by(self) -> float | None:
        """The estimated loss, positive when worse: relative for a ratio, else in `unit`. None without an estimate.

        >>> Finding("c", "output_rate", "", Verdict.PASS, better="higher", scale="ratio", estimate=0.5).worse_by
        1.0
        """
        if self.estimate is None or self.better == "neither":
            return None
        if self.scale == "ratio":
            slower = self.estimate if self.better == "lower" else 1 / self.estimate if self.estimate else float("inf")
            return slower - 1
        return self.estimate if self.better == "lower" else -self.estimate

    @property
    def counts(self) -> bool:
        """False for a regression that a waiver covers."""
        return self.waiver is None


class Control(msgspec.Struct, frozen=True):
    """A cell whose right verdict is known: the same code twice, or a slow-down that was planted."""

    name: str
    expected: Verdict
    finding: Finding

    @property
    def holds(self) -> bool:
        """Whether the gate saw what is there."""
        return self.finding.verdict == self.expected


class Ungated(msgspec.Struct, frozen=True):
    """A cell, or one of its metrics, that no verdict was given on, and why: it is new, or withheld on both sides."""

    cell: str
    reason: str
    metric: str | None = None


class Side(msgspec.Struct, frozen=True, omit_defaults=True):
    """One side of a comparison: where its numbers come from."""

    name: str
    """A run folder, a baseline, a git ref or `working tree`."""
    commit: str | None = None
    dirty: bool = False
    started: str = ""
    """UTC, ISO 8601."""
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    threads: int | None = None
    checkpoints: dict[str, str] = {}
    """Checkpoint name -> content hash."""


Outcome = Literal["broken", "regression", "unfit", "inconclusive", "pass"]
Policy = Literal["pass", "fail"]
"""What CI makes of an inconclusive gate: `--inconclusive pass|fail`."""


class GateReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that one gate or comparison found."""

    suite: str
    base: Side
    new: Side
    mode: Literal["runs", "baseline", "ref"]
    """Two stored runs; a run and an accepted baseline; two code versions measured side by side now."""
    findings: list[Finding] = []
    controls: list[Control] = []
    ungated: list[Ungated] = []
    problems: list[str] = []
    """What makes the whole gate worthless: nothing compared, a rule that matched nothing, an unreadable waiver."""
    notes: list[str] = []
    """What a reader should know and no exit code depends on: differences, waivers that expire, creep, age."""
    inconclusive: Policy | None = None
    """What `exit_code` makes of code 3; None leaves it."""

    @property
    def broken(self) -> bool:
        """Whether the instrument itself failed, which outranks whatever it showed."""
        return bool(self.problems) or not self.findings or Verdict.BROKEN in self.counted

    @property
    def unfit(self) -> bool:
        """Whether a control got the wrong verdict: nothing that rests on a clock can be believed then."""
        return not all(control.holds for control in self.controls)

    @property
    def regressions(self) -> list[Finding]:
        """Findings that fail the gate: not waived, and not discredited by an unfit machine."""
        return [
            finding
            for finding in self.findings
            if finding.verdict == Verdict.REGRESSION and finding.counts and not (self.unfit and finding.timed)
        ]

    @property
    def counted(self) -> Counter[Verdict]:
        """How many findings have each verdict."""
        return Counter(finding.verdict for finding in self.findings)

    @property
    def outcome(self) -> Outcome:
        """What all findings come to; what is broken outranks a regression, which outranks what is open."""
        if self.broken:
            return "broken"
        if self.regressions:
            return "regression"
        if self.unfit:
            return "unfit"
        open_questions = self.counted[Verdict.INCONCLUSIVE] + self.counted[Verdict.INCOMPARABLE]
        return "inconclusive" if open_questions else "pass"

    @property
    def exit_code(self) -> int:
        """0 pass; 1 regression; 2 broken; 3 inconclusive or unfit, unless a policy says what to make of that."""
        undecided = {None: EXIT_INCONCLUSIVE, "pass": EXIT_OK, "fail": EXIT_FAILED}[self.inconclusive]
        codes = {"broken": EXIT_USAGE, "regression": EXIT_FAILED, "pass": EXIT_OK}
        return codes.get(self.outcome, undecided)

    def of(self, *verdicts: Verdict) -> list[Finding]:
        """The findings with one of these verdicts, in order."""
        return [finding for finding in self.findings if finding.verdict in verdicts]


def cells_of(findings: Iterable[Finding]) -> list[str]:
    """The ids of their cells, each once, in order."""
    return list(dict.fromkeys(finding.cell for finding in findings))
