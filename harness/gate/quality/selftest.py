"""`harness gate SUITE --self-test`: defects of known size, planted into a copy of a variant, and what the gate says.

The whole gate is run with the working tree on both sides: unchanged, to see how often it cries wolf here, and with a
copy that works longer, keeps more memory or knows less. Everything that the plant touches has to be called a
regression, everything else has to pass.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.contract.planted import Planted
from harness.contract.registry import Registry
from harness.errors import EXIT_OK, EXIT_USAGE
from harness.gate.live.against import VISITS_EXPECTED, one_thread
from harness.gate.live.gate import LiveGate
from harness.gate.live.side import LiveSide, Version
from harness.gate.live.stage import Stage
from harness.gate.questions import is_timed
from harness.gate.rules import Rules, margins, names
from harness.gate.verdict import EXIT_INCONCLUSIVE, Finding, GateReport, Verdict
from harness.run import machine
from harness.run.client import package_root, python_path
from harness.run.former import Identities
from harness.run.interrupts import interruptible
from harness.run.ledger import Ledger
from harness.run.plan import Plan
from harness.run.progress import Progress
from harness.suite.schema import Difference, Gate, Points, Relative

OVER = 1.25
"""A plant over what has to be caught, which a GPU's extra work meets to some percent only."""

MEMORY = ("peak_memory", "peak_memory_growth")
"""Metrics that planted memory shows in."""

UNCHANGED = "unchanged"

WRONG = 0.5
"""Share of the documents that know less."""


@dataclass(frozen=True)
class Plant:
    """One defect, and the metrics that it shows in."""

    name: str
    planted: Planted | None
    hits: Collection[str] = ()


@dataclass(frozen=True)
class Tried:
    """One gate run with a plant."""

    plant: Plant
    report: GateReport

    @property
    def hit(self) -> list[Finding]:
        """The findings that have to be regressions."""
        return [finding for finding in self.report.findings if finding.metric in self.plant.hits]

    @property
    def spared(self) -> list[Finding]:
        """The findings that nothing was planted for."""
        return [finding for finding in self.report.findings if finding.metric not in self.plant.hits]

    @property
    def alarms(self) -> list[Finding]:
        """Changes that the gate saw where there is none."""
        return [one for one in self.spared if one.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT)]

    def hit_as(self, *verdicts: Verdict) -> int:
        """How many of `hit` were called so."""
        return sum(finding.verdict in verdicts for finding in self.hit)

    @property
    def right(self) -> bool:
        """Whether every answer was the right one."""
        passed = all(finding.verdict == Verdict.PASS for finding in self.spared)
        return passed and self.hit_as(Verdict.REGRESSION) == len(self.hit)


def self_test(plan: Plan, registry: Registry, progress: Callable[[float], Progress], times: int) -> Iterator[Tried]:
    """Run the gate unchanged `times` times and once with each plant; each is yielded as it ends.

    `progress` opens one that counts so many steps. Raises UsageError for a suite without rules; KeyboardInterrupt
    after Ctrl-C, with everything cleared away.
    """
    rules = Rules.of_suite(plan.suite)
    trier = _Trier(one_thread(plan), registry, progress)
    findings: list[Finding] = []
    for number in range(1, times + 1):
        unchanged = trier.tried(Plant(f"nothing, run {number}", None))
        findings += unchanged.report.findings
        yield unchanged
    for plant in plants(rules.gate, findings):
        yield trier.tried(plant)


def plants(gate: Gate, findings: Sequence[Finding]) -> list[Plant]:
    """Every defect that some rule of the gate has to see; `findings` of unchanged runs say how much memory is much."""
    made = []
    timed = {metric: margins(rule)[1] for metric, rule in _relative(gate) if is_timed(metric)}
    if timed:
        slower = OVER * max(timed.values())
        made.append(Plant(f"{slower:.1%} more work in every call", Planted(slower=slower), timed))
        halves = Planted(slower=2 * slower, share=0.5)
        made.append(Plant(f"{2 * slower:.1%} more work in half of the calls", halves, timed))
    held = {metric: margins(rule)[1] for metric, rule in _relative(gate) if metric in MEMORY}
    count = max((_bytes(finding, held) for finding in findings if finding.metric in held), default=0)
    if count:
        made.append(Plant(f"{count / 2**20:.0f} MiB more memory", Planted(memory_bytes=count), held))
    scored = {metric for rule in gate.rules if isinstance(rule, Points | Difference) for metric in names(rule.metrics)}
    if scored:
        made.append(Plant(f"noise in the scores of {WRONG:.0%} of the documents", Planted(wrong=WRONG), scored))
    return made


def exit_code(tried: Sequence[Tried]) -> int:
    """0 when every answer was right, 2 when a gate was broken, 3 when this machine (or these rules) are unfit."""
    if any(one.report.broken for one in tried):
        return EXIT_USAGE
    return EXIT_OK if all(one.right for one in tried) else EXIT_INCONCLUSIVE


def of_baselines(plan: Plan) -> Plan:
    """The plan with each table's baseline alone: one variant is enough to plant things into."""
    tables = [
        replace(table, cells=[one for one in table.cells if one.cell.variant == table.table.baseline])
        for table in plan.tables
    ]
    return replace(plan, tables=tables)


def _relative(gate: Gate) -> Iterator[tuple[str, Relative]]:
    for rule in gate.rules:
        if isinstance(rule, Relative):
            yield from ((metric, rule) for metric in names(rule.metrics))


def _bytes(finding: Finding, held: dict[str, float]) -> int:
    """Memory that makes a finding's value larger by more than has to be caught."""
    return math.ceil(OVER * held[finding.metric] * (finding.base or 0.0))


@dataclass(frozen=True)
class _Trier:
    """Runs one gate after the other, both sides from the working tree."""

    plan: Plan
    registry: Registry
    progress: Callable[[float], Progress]

    def tried(self, plant: Plant) -> Tried:
        """The gate with `plant` on its new side."""
        section = self.plan.suite.suite.gate
        assert section is not None, "rules were read from it before"
        stage = Stage(self.progress(VISITS_EXPECTED * sum(planned.runs for planned in self.plan.cells)))
        with tempfile.TemporaryDirectory(prefix="harness-self-test-") as folder:
            ledger = Ledger()
            base = self._side(UNCHANGED, None, Path(folder), ledger, stage)
            new = self._side("copy", plant.planted, Path(folder), ledger, stage)
            live = LiveGate(base, new, self._rules, section, narrowed=True, controlled=False, stage=stage)
            try:
                with interruptible(live.close):
                    return Tried(plant, live.report())
            finally:
                live.close()
                stage.close()

    def _rules(self) -> Rules:
        return Rules.of_suite(self.plan.suite)

    def _side(self, name: str, planted: Planted | None, folder: Path, ledger: Ledger, stage: Stage) -> LiveSide:
        root, plan = package_root(), self.plan
        version = Version(name, root, root, plan.plugins, python_path(), is_base=name == UNCHANGED)
        context = {
            **machine.run_context(plan.facts, root),
            "device": plan.facts.device,
            "threads": plan.threads,
            "seed": plan.seed,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        identities = Identities(plan, self.registry)
        return LiveSide(version, plan, identities, folder / name, stage, ledger, context, planted)
