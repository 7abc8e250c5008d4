"""Suites over the fake engine, and the command line run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PLUGIN = Path(__file__).with_name("fake_engine.py")

CONFIG = {
    "model_type": "deepseek_v3",
    "vocab_size": 37,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "kv_lora_rank": 4,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2,
    "v_head_dim": 4,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class FakeSuite:
    """A suite file beside a checkpoint that has a config.json alone."""

    path: Path
    out: Path

    def command(self, *arguments: str) -> list[str]:
        """`harness ARGUMENTS`, as installed."""
        return [sys.executable, "-P", "-m", "harness.cli.main", *arguments]

    def start(self, *flags: str, **popen: Any) -> subprocess.Popen[str]:
        """Start `harness run` on the suite."""
        command = self.command("run", str(self.path), "--out", str(self.out), *flags)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)

    def run(self, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`harness run` to its end."""
        command = self.command("run", str(self.path), "--out", str(self.out), *flags)
        env = {**os.environ, **environment}
        return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=env)

    @property
    def folders(self) -> list[Path]:
        """All run folders, oldest first."""
        return sorted(self.out.glob("*/run.json")) and sorted(path.parent for path in self.out.glob("*/run.json"))

    def records(self) -> list[dict[str, Any]]:
        """The stored records of the newest run."""
        return [json.loads(line) for line in (self.folders[-1] / "records.jsonl").read_text().splitlines()]


def fake_suite(folder: Path, kernels: list[str], lengths: list[int], **changes: Any) -> FakeSuite:
    """A suite with one table: `kernels` (the first is the baseline) times prefill of `lengths`.

    `changes` replace keys of the suite; `workloads` replaces those of the table.
    """
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(CONFIG))
    table = {
        "question": "Does one fault cost one cell?",
        "checkpoint": "checkpoint",
        "baseline": {"engine": "fake", "kernels": kernels[0]},
        "variants": [{"engine": "fake", "kernels": kernels}],
        "workloads": changes.pop("workloads", [{"kind": "prefill", "length": lengths, "context": "random"}]),
    }
    suite = {
        "question": "Do faults stay where they are?",
        "threads": 1,
        "sampling": {"rounds": 2, "max_rounds": 2, "restarts": 0, "samples": 1, "timeout": 60.0},
        "plugins": [str(PLUGIN)],
        "tables": {"faults": table},
        **changes,
    }
    path = folder / "faults.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    return FakeSuite(path, folder / "results")
