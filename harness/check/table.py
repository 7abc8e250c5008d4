"""The kit's results as text: one table of checks by options, then every failure and every reason."""

from __future__ import annotations

from collections.abc import Sequence

from harness.check.checks import CHECKS
from harness.check.kit import Result, Verdict
from harness.check.subjects import OptionName

BLANK = ""
"""The check is about another axis."""


def render(results: Sequence[Result], options: Sequence[OptionName]) -> str:
    """The table, the failures, and why checks did not apply."""
    from tabulate import tabulate

    rows = [
        [check.name, *(_cell(_of(results, option, check.name)) for option in options)]
        for check in CHECKS
        if any(_of(results, option, check.name) for option in options)
    ]
    axes = [option.axis for option in options]
    shown = [axis if axis not in axes[:index] else "" for index, axis in enumerate(axes)]
    headers = ["check", *(f"{axis}\n{option.name}" for axis, option in zip(shown, options, strict=True))]
    table = tabulate(rows, headers, tablefmt="simple", disable_numparse=True, stralign="left")
    return "\n\n".join(part for part in (table, _failures(results), _reasons(results), _summary(results)) if part)


def failed(results: Sequence[Result]) -> bool:
    """Whether any check found a fault."""
    return any(result.verdict == Verdict.FAILED for result in results)


def _of(results: Sequence[Result], option: OptionName, check: str) -> list[Result]:
    return [result for result in results if result.option == option and result.check == check]


def _cell(results: Sequence[Result]) -> str:
    """One failure fails the check, one pass passes it; blank when it was never put."""
    verdicts = {result.verdict for result in results}
    for verdict in (Verdict.FAILED, Verdict.PASSED, Verdict.NOT_APPLICABLE):
        if verdict in verdicts:
            return str(verdict)
    return BLANK


def _failures(results: Sequence[Result]) -> str:
    """Each failing check of each option once: where it failed first, and how often."""
    found: dict[tuple[OptionName, str], list[Result]] = {}
    for result in results:
        if result.verdict == Verdict.FAILED:
            found.setdefault((result.option, result.check), []).append(result)
    return "\n".join(_failure(its) for its in found.values())


def _failure(results: Sequence[Result]) -> str:
    first = results[0]
    where = f" on {first.subject}" if first.subject else ""
    more = f" (and {len(results) - 1} more)" if len(results) > 1 else ""
    return f"FAIL {first.option} {first.check}{where}{more}:\n     {first.message}"


def _reasons(results: Sequence[Result]) -> str:
    """Reasons of checks that no subject could answer, each with the options that it holds for."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        its = _of(results, result.option, result.check)
        if {each.verdict for each in its} == {Verdict.NOT_APPLICABLE}:
            checks = reasons.setdefault(result.message, [])
            if (name := str(result.option)) not in checks:
                checks.append(name)
    return "\n".join(f"n/a  {', '.join(options)}: {reason}" for reason, options in reasons.items())


def _summary(results: Sequence[Result]) -> str:
    counts = {verdict: sum(result.verdict == verdict for result in results) for verdict in Verdict}
    return (
        f"{counts[Verdict.PASSED]} passed, {counts[Verdict.FAILED]} failed, "
        f"{counts[Verdict.NOT_APPLICABLE]} not applicable"
    )
