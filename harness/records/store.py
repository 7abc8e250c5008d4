"""The run folder: every record on disk, flushed, before the next cell starts.

    results/<suite>-<UTC time>/run.json         suite and context, written once at the start
                               records.jsonl    one record a line, appended and synced as cells end; a timed cell gets a
                                                line after each of its processes, of which the last one counts
                               samples/*.jsonl  per-document results of accuracy cells
                               end.json         how it ended and where its time went
                               scratch/         workers' files, removed when the run ends

A run that is killed leaves whole lines and at most one broken last line, which readers drop.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import UsageError
from harness.records.record import SCHEMA, Record
from harness.suite.cell import CellId
from harness.suite.variant import Variant


class TableHeader(msgspec.Struct, frozen=True):
    """What a report needs to know about one table, names resolved."""

    question: str
    baseline: Variant
    variants: list[Variant]
    """In the order in which rows are shown."""
    cells: int
    """How many there are, so that an interrupted run can say what it lacks."""


class RunHeader(msgspec.Struct, frozen=True):
    """The content of run.json."""

    suite: dict[str, Any]
    """The suite as it ran, with every change of the command line applied."""
    context: dict[str, Any]
    """Machine, versions, git state and command-line choices, as they were at the start."""
    started: str
    """UTC, ISO 8601."""
    name: str
    """Name of the suite: its file name without `.yaml`."""
    tables: dict[str, TableHeader] = {}
    """The suite's tables, in the order in which they are shown."""
    schema: int = SCHEMA


class RunEnd(msgspec.Struct, frozen=True):
    """The content of end.json: a run without one was killed."""

    ended: str
    """UTC, ISO 8601."""
    finished: bool
    """False when Ctrl-C or an error ended it early."""
    wall_seconds: float
    seconds: dict[str, float]
    """Of the wall time: `loading` workers, `setup` of cells, `warmup`, `measured` blocks, `checks` of answers."""

    @classmethod
    def of(cls, finished: bool, wall_seconds: float, seconds: dict[str, float]) -> RunEnd:
        """The end of a run, now."""
        rounded = {purpose: round(spent, 3) for purpose, spent in seconds.items()}
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), finished, round(wall_seconds, 3), rounded)

    @property
    def working_seconds(self) -> float:
        """Wall time without loading workers."""
        return self.wall_seconds - self.seconds.get("loading", 0.0)

    @property
    def measuring(self) -> float:
        """Share of the working time inside measured or warm-up blocks; 1 when there was none."""
        spent = self.seconds.get("measured", 0.0) + self.seconds.get("warmup", 0.0)
        return spent / self.working_seconds if self.working_seconds > 0 else 1.0

    @property
    def warming(self) -> float:
        """Share of the measured and warm-up blocks that was warm-up."""
        spent = self.seconds.get("measured", 0.0) + self.seconds.get("warmup", 0.0)
        return self.seconds.get("warmup", 0.0) / spent if spent else 0.0


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. `create` starts one, `open` reads one back."""

    path: Path
    header: RunHeader

    @classmethod
    def create(
        cls,
        out: Path,
        name: str,
        suite: dict[str, Any],
        context: dict[str, Any],
        tables: dict[str, TableHeader] | None = None,
    ) -> RunFolder:
        """Make a new folder below `out`. Raises UsageError, with nothing left behind, when that cannot be written."""
        now = datetime.now(UTC)
        header = RunHeader(suite, context, now.isoformat(timespec="seconds"), name, tables or {})
        path: Path | None = None
        try:
            path = _new_folder(out, f"{name}-{now:%Y%m%dT%H%M%SZ}")
            _write_synced(path / "run.json", msgspec.json.format(msgspec.json.encode(header)) + b"\n")
            (path / "scratch").mkdir()
        except OSError as error:
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
            what = f"cannot write results there: {error.strerror}; name another folder"
            raise UsageError(what, f"--out {out}") from None
        return cls(path, header)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Read a stored run. Raises UsageError when `path` holds no run, or one of a newer schema."""
        try:
            header = msgspec.json.decode((path / "run.json").read_bytes(), type=RunHeader)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"holds no run (no run.json); {_runs_nearby(path)}", str(path)) from None
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", str(path / "run.json")) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"is not a run's header: {error}", str(path / "run.json")) from None
        if header.schema > SCHEMA:
            raise UsageError(
                f"was written with schema {header.schema}; this version reads up to {SCHEMA}", str(path / "run.json")
            )
        return cls(path, header)

    @property
    def scratch(self) -> Path:
        """Folder for files that workers share during the run."""
        return self.path / "scratch"

    def append(self, record: Record) -> None:
        """Add one record and return only when it is on disk. Raises UsageError when it cannot be: a full disk."""
        path = self.path / "records.jsonl"
        try:
            with path.open("ab") as file:
                file.write(msgspec.json.encode(record) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot store a record: {error.strerror}", str(path)) from None

    def write_samples(self, cell: CellId, documents: Iterable[dict[str, Any]]) -> str:
        """Store a cell's per-document results; returns their path relative to the run folder. Raises UsageError."""
        relative = f"samples/{cell.slug}.jsonl"
        try:
            (self.path / "samples").mkdir(exist_ok=True)
            _write_synced(self.path / relative, b"".join(msgspec.json.encode(each) + b"\n" for each in documents))
        except OSError as error:
            raise UsageError(f"cannot store samples: {error.strerror}", str(self.path / relative)) from None
        return relative

    def adopt(self, other: RunFolder, record: Record, measured_in: str) -> Record:
        """Copy a record of another run, with its samples; says in its context which run measured it.

        Raises UsageError when it cannot be stored, or its samples not be read.
        """
        context = {**record.context, "carried_over": measured_in}
        copy = msgspec.structs.replace(record, context=context)
        if record.samples_file is not None:
            try:
                content = (other.path / record.samples_file).read_bytes()
                (self.path / "samples").mkdir(exist_ok=True)
                _write_synced(self.path / record.samples_file, content)
            except OSError as error:
                raise UsageError(f"cannot copy samples: {error.strerror}", str(error.filename)) from None
        self.append(copy)
        return copy

    def records(self) -> list[Record]:
        """The last record of every cell, in the order in which they ended.

        A broken last line (a killed run) is dropped. Raises UsageError with the line number when any other line is
        not a record.
        """
        path = self.path / "records.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        whole, rest = lines[:-1], lines[-1]
        records = [_record(line, f"{path}:{number}") for number, line in enumerate(whole, 1) if line.strip()]
        records += _unfinished(rest)
        newest = {record.cell: record for record in records}
        return [record for record in records if newest[record.cell] is record]

    def samples(self, record: Record) -> list[dict[str, Any]]:
        """The per-document results of a record; empty when it has none."""
        if record.samples_file is None:
            return []
        with (self.path / record.samples_file).open("rb") as file:
            return [msgspec.json.decode(line) for line in file]

    def end(self) -> RunEnd | None:
        """How the run ended; None while it runs, or when it was killed."""
        try:
            return msgspec.json.decode((self.path / "end.json").read_bytes(), type=RunEnd)
        except (OSError, msgspec.DecodeError):
            return None

    def close(self, end: RunEnd | None = None) -> None:
        """Remove the workers' scratch files and say how it ended; a run without a single record is removed altogether.

        A disk that is full by now costs the note on how it ended, and nothing else.
        """
        shutil.rmtree(self.scratch, ignore_errors=True)
        if end is not None:
            with contextlib.suppress(OSError):
                _write_synced(self.path / "end.json", msgspec.json.format(msgspec.json.encode(end)) + b"\n")
        if not (self.path / "records.jsonl").exists():
            shutil.rmtree(self.path, ignore_errors=True)


def _new_folder(out: Path, name: str) -> Path:
    """`out/name`, or `out/name-2` and so on when two runs start within one second."""
    out.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        path = out / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, "a thousand runs of this name exist")


def _write_synced(path: Path, content: bytes) -> None:
    """Whole file or no file, even when the machine stops in between."""
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _record(line: bytes, where: str) -> Record:
    try:
        return msgspec.json.decode(line, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not a record: {error}", where) from None


def _unfinished(line: bytes) -> list[Record]:
    """A last line without its newline: a record when it is whole, else nothing."""
    try:
        return [msgspec.json.decode(line, type=Record)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def _runs_nearby(path: Path) -> str:
    """What the user may have meant: runs below the folder that was named, or beside it."""
    for folder in (path, path.parent):
        runs = sorted(header.parent.name for header in folder.glob("*/run.json")) if folder.is_dir() else []
        if runs:
            shown = ", ".join(str(folder / name) for name in runs[-3:])
            return f"{len(runs)} runs are in {str(folder)!r}, the last: {shown}"
    return "allowed: a folder that `harness run` wrote"
