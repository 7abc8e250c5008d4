"""A gate report in every format that somebody reads; each file here is one of them."""

from __future__ import annotations

from harness.errors import unknown
from harness.gate.verdict import GateReport

FORMATS = ("terminal", "markdown", "json", "junit", "github")


def render(report: GateReport, format: str, everything: bool = False) -> str:
    """The report in one of `FORMATS`; `everything` lists passes on a terminal too. Raises UsageError for another."""
    from harness.gate.output import document, github, junit, markdown, terminal

    if format == "terminal":
        return terminal.text(report, everything)
    writers = {"markdown": markdown.text, "json": document.text, "junit": junit.text, "github": github.text}
    if format not in writers:
        raise unknown("format", format, FORMATS)
    return writers[format](report)
