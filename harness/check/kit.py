"""The conformance kit: the list of checks, run over options on random tiny models.

A check of a variant counts for each of its options while the others are built-in: the fault of a plugin stands
in its own row and in no other's.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from harness.check.checks import CHECKS, Check, Part
from harness.check.subject import Subject, Workbench
from harness.check.subjects import OptionName, reasons_against, subjects_of
from harness.check.verdict import FaultError, NotApplicableError

Progress = Callable[[int, int, str], None]
"""Told how many subjects are done, of how many, and what comes next."""


class Verdict(StrEnum):
    """How a check of an option ended."""

    PASSED = "pass"
    FAILED = "FAIL"
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True)
class Result:
    """One check of one option on one subject."""

    option: OptionName
    check: str
    verdict: Verdict
    subject: str = ""
    """Model and variant; empty when the option itself was looked at."""
    message: str = ""
    """What is wrong, or why the check does not apply."""


def run_checks(bench: Workbench, options: Sequence[OptionName], progress: Progress) -> list[Result]:
    """Every check of every option; each subject is built and checked once, whatever options it stands for."""
    subjects = {option: subjects_of(option, bench) for option in options}
    shared: dict[tuple[str, object], list[OptionName]] = {}
    for option, its in subjects.items():
        for subject in its:
            shared.setdefault((subject.model, subject.variant), []).append(option)
    unique = {(subject.model, subject.variant): subject for its in subjects.values() for subject in its}
    results: list[Result] = []
    for done, (key, subject) in enumerate(unique.items()):
        progress(done, len(unique), f"{subject.model} {subject.variant.id}")
        results += _check_subject(subject, shared[key])
    for option, its in subjects.items():
        results += _check_part(option, its, bench) if its else _not_here(option, bench)
    progress(len(unique), len(unique), "")
    return results


def _check_subject(subject: Subject, options: Sequence[OptionName]) -> Iterator[Result]:
    for check in CHECKS:
        if check.axis is None:
            torch.manual_seed(0)  # a plugin that draws random numbers gets the same ones every time
            verdict, message = _verdict(check, subject)
            where = f"{subject.model} {subject.variant.id}"
            yield from (Result(option, check.name, verdict, where, message) for option in options)


def _check_part(option: OptionName, subjects: Sequence[Subject], bench: Workbench) -> Iterator[Result]:
    checks = [check for check in CHECKS if check.axis == option.axis]
    if not checks:
        return
    precisions = frozenset(subject.variant.precision for subject in subjects)
    part = Part(option, bench.registry.option(option.axis, option.name).load(), bench, precisions)
    for check in checks:
        verdict, message = _verdict(check, part)
        yield Result(option, check.name, verdict, "", message)


def _not_here(option: OptionName, bench: Workbench) -> Iterator[Result]:
    reason = "; ".join(reasons_against(option, bench))
    for check in CHECKS:
        if check.axis in (None, option.axis):
            yield Result(option, check.name, Verdict.NOT_APPLICABLE, "", reason)


def _verdict(check: Check, what: Subject | Part) -> tuple[Verdict, str]:
    """Run one check; whatever a plugin raises is a failure of that check, not of the kit."""
    try:
        check.run(what)
    except NotApplicableError as reason:
        return Verdict.NOT_APPLICABLE, str(reason)
    except FaultError as fault:
        return Verdict.FAILED, str(fault)
    except Exception as error:
        return Verdict.FAILED, _described(error)
    return Verdict.PASSED, ""


def _described(error: Exception) -> str:
    """The exception in one line, with the place that raised it."""
    text = str(error).strip().splitlines()
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text[0] if text else ''} ({Path(frame.filename).name}:{frame.lineno})"
