"""The same content as one JSON document, values derived from their samples."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from harness.errors import UsageError
from harness.records.document import result_document
from harness.report.collect import TableData


def json_text(tables: Sequence[TableData]) -> str:
    """The result document; suite and context are the newest run's. Raises UsageError for runs of unlike suites."""
    suites = list(dict.fromkeys(table.suite for table in tables))
    if len(suites) > 1:
        raise UsageError(f"a JSON document holds the runs of one suite; these are of {', '.join(suites)}")
    entries = [entry for table in tables for entry in table.entries]
    newest = max((entry.header for entry in entries), key=lambda header: header.started)
    document = result_document(newest.suite, newest.context, [entry.record for entry in entries])
    return msgspec.json.format(msgspec.json.encode(document)).decode()
