"""JSON schemas of what goes in and what comes out, generated from the structs that are really used.

`python -m harness.json_schemas` writes them to results/schema/; a test keeps the committed files current.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from harness.gate.baselines.baseline import Acceptance
from harness.gate.baselines.waivers import WaiverFile
from harness.gate.output.document import GateDocument
from harness.records.document import ResultDocument
from harness.suite.schema import Suite

TITLES = {
    "suite.json": ("A suite file of harness", Suite),
    "results.json": ("The result document of `harness run --json`", ResultDocument),
    "gate.json": ("The report of `harness gate --json` and `harness compare --json`", GateDocument),
    "waivers.json": ("A file of waivers", WaiverFile),
    "acceptance.json": ("A line of a baseline's acceptances.jsonl", Acceptance),
}


def json_schemas() -> dict[str, bytes]:
    """File name to content: JSON Schema 2020-12."""
    return {name: _schema(title, kind) for name, (title, kind) in TITLES.items()}


def write_json_schemas(folder: Path) -> list[Path]:
    """Write all schemas into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in json_schemas().items():
        (folder / name).write_bytes(content)
    return [folder / name for name in TITLES]


def _schema(title: str, kind: type) -> bytes:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    schema = head | msgspec.json.schema(kind)
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic")) + b"\n"


if __name__ == "__main__":
    for path in write_json_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "results/schema")):
        print(path)
