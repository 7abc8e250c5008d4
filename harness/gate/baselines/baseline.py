"""Accepted baselines: a run that somebody answers for, kept where a review sees it.

    results/baselines/<suite>/<machine>/run.json           as of the run that was accepted last
                                        records.jsonl      the accepted record of every cell, raw samples included
                                        samples/           per-document results of accuracy cells
                                        acceptances.jsonl  who accepted which values, when, why, and what had changed

A baseline is a run folder, so every command that reads a run reads it too. A new acceptance replaces the cells it has
and keeps the others; times of unlike machines stand side by side and are never mixed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from harness.errors import UsageError
from harness.gate.compare import compare
from harness.gate.measured import Measured, open_run
from harness.gate.output import labels
from harness.gate.rules import Rules
from harness.gate.verdict import Finding, Side, Verdict
from harness.records.record import Record, Status
from harness.records.store import RunFolder, RunHeader

BASELINES = Path("results/baselines")
ACCEPTANCES = "acceptances.jsonl"
NEWS = (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.INCOMPARABLE)
"""Verdicts against the former baseline that an acceptance puts on record."""
SHOWN = 3
SOON = 14
"""Days before times get too old from which that is announced."""


class Acceptance(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of acceptances.jsonl."""

    when: str
    """UTC, ISO 8601."""
    who: str
    why: str
    run: str
    commit: str | None = None
    dirty: bool = False
    changes: list[str] = []
    """What differed from the former baseline by the suite's rules, in words."""
    fresh: list[str] = []
    """Cells that had no comparable baseline before; their series of values starts here."""
    dropped: list[str] = []
    """Cells that the suite does not have any more."""
    values: dict[str, dict[str, float]] = {}
    """Accepted cell -> gated metric -> value."""

    @property
    def day(self) -> date:
        """The day, UTC."""
        return datetime.fromisoformat(self.when).date()


@dataclass(frozen=True)
class Baseline:
    """One accepted baseline on disk."""

    folder: RunFolder
    acceptances: list[Acceptance]
    """Oldest first."""

    @classmethod
    def open(cls, path: Path) -> Baseline:
        """Read one. Raises UsageError when it is none, or broken."""
        folder = RunFolder.open(path)
        return cls(folder, _acceptances(path / ACCEPTANCES))

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.path

    @property
    def accepted(self) -> dict[str, date]:
        """Cell -> the day on which its values were accepted."""
        return {cell: acceptance.day for acceptance in self.acceptances for cell in acceptance.values}

    def measured(self) -> Measured:
        """As one side of a comparison."""
        return open_run(self.folder, f"baseline {self.path}", self.accepted)


def age_notes(baseline: Baseline, limit: int, today: date) -> list[str]:
    """What to say when times of the baseline stop, or soon will stop, to be compared; `limit` is in days."""
    ages = [(today - day).days for day in baseline.accepted.values()]
    old, ageing = sum(age > limit for age in ages), sum(limit - SOON <= age <= limit for age in ages)
    notes = [f"times of {old} cells were accepted more than {limit} days ago and are not compared"] if old else []
    return notes + ([f"times of {ageing} cells reach {limit} days within {SOON}: accept new ones"] if ageing else [])


def find(root: Path, suite: str, side: Side) -> Baseline:
    """The suite's baseline for a run's machine, or the newest of another one, whose times nobody will compare.

    Raises UsageError when nothing was ever accepted.
    """
    own = place(root, suite, side)
    if (own / "run.json").exists():
        return Baseline.open(own)
    others = [Baseline.open(header.parent) for header in sorted((root / suite).glob("*/run.json"))]
    if not others:
        what = f"no baseline was accepted for {suite!r}; `harness accept RUN --reason TEXT` makes one"
        raise UsageError(what, str(root / suite))
    return max(others, key=lambda one: one.acceptances[-1].when)


def place(root: Path, suite: str, side: Side) -> Path:
    """Where the baseline of a suite on such a machine is."""
    machine = side.machine
    gpu = machine.get("gpu_name") if machine.get("device") != "cpu" else None
    memory = f"{machine.get('memory_bytes', 0) / 2**30:.0f}gib"
    parts = [machine.get("cpu_model", "machine"), f"{machine.get('cpu_count', 0)}cpu", memory, gpu or "cpu"]
    threads = [f"{side.threads}t"] if side.threads else []
    return root / suite / "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in [*parts, *threads])


@dataclass(frozen=True)
class Reason:
    """Who answers for a baseline, and why."""

    who: str
    why: str


def accept(run: RunFolder, rules: Rules, root: Path, reason: Reason, now: datetime | None = None) -> Baseline:
    """Make `run` the baseline of its suite on its machine. Returns it, with the new acceptance last.

    Raises UsageError, with the former baseline untouched, when a cell of the run failed, when the run was interrupted,
    or when it cannot be written.
    """
    new = open_run(run)
    _require_whole(run, new)
    target = place(root, run.header.name, new.side)
    former = Baseline.open(target) if (target / "run.json").exists() else None
    kept = _kept(former, new)
    acceptance = _acceptance(run, new, former, kept, rules, reason, now or datetime.now(UTC))
    header = _header(run.header, former.folder.header if former and kept else None)
    history = [*(former.acceptances if former else []), acceptance]
    _write(target, header, [*((former.folder, one) for one in kept if former), *((run, one) for one in _passed(new))],
           history)  # fmt: skip
    return Baseline.open(target)


# --- what is accepted ---------------------------------------------------------------------------------


def _require_whole(run: RunFolder, new: Measured) -> None:
    failed = [record for record in new.records.values() if record.status.fails_the_run]
    if failed:
        named = ", ".join(f"{record.cell} ({record.status.value})" for record in failed[:SHOWN])
        raise UsageError(f"{len(failed)} cells did not pass, so nobody can answer for them: {named}", str(run.path))
    expected = sum(table.cells for table in run.header.tables.values())
    if len(new.records) < expected:
        what = f"the run was interrupted: {len(new.records)} of {expected} cells have ended; run it again"
        raise UsageError(what, str(run.path))


def _passed(side: Measured) -> list[Record]:
    """Records with numbers; the worker's output has no place in a baseline."""
    return [replace(record, output="") for record in side.records.values() if record.status == Status.PASSED]


def _kept(former: Baseline | None, new: Measured) -> list[Record]:
    """Cells of the former baseline that the run was not asked for: it stays as it is for them."""
    if former is None or not new.narrowed:
        return []
    fresh = {record.cell for record in _passed(new)}
    return [record for record in former.folder.records() if record.cell not in fresh]


def _acceptance(
    run: RunFolder,
    new: Measured,
    former: Baseline | None,
    kept: Sequence[Record],
    rules: Rules,
    reason: Reason,
    now: datetime,
) -> Acceptance:
    findings = _against(former, new, rules, run.header.name)
    unlike = {finding.cell for finding in findings if finding.verdict == Verdict.INCOMPARABLE}
    before = {record.cell for record in former.folder.records()} if former else set()
    cells = {record.cell: record for record in _passed(new)}
    names = labels.CellNames(finding.cell for finding in findings)
    return Acceptance(
        when=now.isoformat(timespec="seconds"),
        who=reason.who,
        why=reason.why,
        run=run.path.name,
        commit=new.side.commit,
        dirty=new.side.dirty,
        changes=[_told(one, names) for one in labels.by_severity(findings) if one.verdict in NEWS],
        fresh=sorted(cell for cell in cells if before and (cell not in before or cell in unlike)),
        dropped=sorted(before - cells.keys() - {record.cell for record in kept}),
        values={cell: values for cell, record in cells.items() if (values := _values(record, rules))},
    )


def _against(former: Baseline | None, new: Measured, rules: Rules, suite: str) -> list[Finding]:
    """Findings against the former baseline, however old: its age is no difference between the two."""
    return compare(open_run(former.folder), new, rules, suite, "baseline").findings if former else []


def _told(finding: Finding, names: labels.CellNames) -> str:
    base, new = labels.values(finding)
    figures = f"{base} -> {new} {labels.change(finding)}".rstrip()
    return "; ".join([f"{finding.verdict.value}: {names.short(finding.cell)} {finding.metric} {figures}",
                      *finding.reasons])  # fmt: skip


def _values(record: Record, rules: Rules) -> dict[str, float]:
    values = {metric: record.metrics[metric].value for metric in rules.metrics(record) if metric in record.metrics}
    return {metric: value for metric, value in values.items() if value is not None}


def _header(header: RunHeader, former: RunHeader | None) -> RunHeader:
    """The run's own header; where cells of the former baseline stay, so do its tables and its whole suite."""
    if former is None:
        return header
    context = {**header.context, "command": {}}
    return replace(former, context=context, started=header.started, tables={**header.tables, **former.tables})


# --- reading and writing ------------------------------------------------------------------------------


def _acceptances(path: Path) -> list[Acceptance]:
    try:
        lines = path.read_bytes().splitlines()
        found = [msgspec.json.decode(line, type=Acceptance) for line in lines if line.strip()]
    except OSError as error:
        raise UsageError(f"holds no accepted baseline: {error.strerror}", str(path)) from None
    except msgspec.DecodeError as error:
        raise UsageError(f"is not a list of acceptances: {error}", str(path)) from None
    if not found:
        raise UsageError("holds no acceptance", str(path))
    return found


def _write(
    target: Path, header: RunHeader, records: Sequence[tuple[RunFolder, Record]], history: Sequence[Acceptance]
) -> None:
    """All files into a folder beside the target, then one rename: a full disk leaves the former baseline whole."""
    draft = target.with_name(target.name + ".part")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        (draft / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(header)) + b"\n")
        ordered = sorted(records, key=lambda pair: pair[1].cell)
        (draft / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for _, one in ordered))
        (draft / ACCEPTANCES).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in history))
        for source, record in ordered:
            _copy_samples(source, record, draft)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise UsageError(f"cannot write the baseline: {error.strerror}", str(target)) from None


def _copy_samples(source: RunFolder, record: Record, target: Path) -> None:
    if record.samples_file is not None:
        (target / record.samples_file).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.path / record.samples_file, target / record.samples_file)
