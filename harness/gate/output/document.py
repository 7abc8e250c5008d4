"""The report as one JSON document, for programs: `results/schema/gate.json` describes it."""

from __future__ import annotations

import msgspec

from harness.gate.verdict import GateReport, Outcome
from harness.records.record import SCHEMA


class GateDocument(msgspec.Struct, frozen=True):
    """What `--json` writes: the outcome, and everything that it follows from."""

    schema: int
    outcome: Outcome
    exit_code: int
    report: GateReport


def text(report: GateReport) -> str:
    """The document; numbers that are not finite are null."""
    document = GateDocument(SCHEMA, report.outcome, report.exit_code, report)
    return msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"
