"""A small suite as plain data, for tests to bend."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

SUITE: dict[str, Any] = {
    "question": "Does it hold?",
    "sampling": {"rounds": 2, "samples": 1},
    "tables": {
        "first": {
            "question": "First?",
            "checkpoint": "v32-layer",
            "baseline": {"form": "mha"},
            "variants": [{"form": ["mha", "mqa"], "selector": ["dense", "dsa"]}, {"engine": "hf", "selector": "dense"}],
            "workloads": [
                {"kind": "prefill", "length": [16, 32], "batch": [1, 2]},
                {"kind": "accuracy", "tasks": ["one", "two"], "length": [8, 16]},
            ],
        },
        "second": {
            "question": "Second?",
            "checkpoint": "checkpoints/small",
            "baseline": {"form": "mqa"},
            "sampling": {"samples": 4},
            "variants": [{"form": "mqa"}],
            "workloads": [{"kind": "decode", "length": 64}],
        },
    },
}


def suite_file(folder: Path, change: Any = None, name: str = "small.yaml") -> Path:
    """Write the suite, changed by `change(data)`, as a YAML file."""
    data = copy.deepcopy(SUITE)
    if change is not None:
        change(data)
    path = folder / name
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def line_of(path: Path, text: str) -> int:
    """The first line of a file that contains `text`, from 1."""
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)
