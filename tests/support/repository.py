"""Small git repositories for tests: of a few files, or of this project's packages beside a suite of the fake engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.fake_suite import PLUGIN, fake_suite

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class TestRepository:
    """A repository in a temporary folder."""

    __test__ = False
    root: Path

    @classmethod
    def of(cls, root: Path, files: dict[str, str]) -> TestRepository:
        """A repository with one commit of these files."""
        made = cls(root)
        root.mkdir(parents=True, exist_ok=True)
        made.git("init", "--quiet", "--initial-branch", "main")
        made.write(files)
        made.commit("first")
        return made

    @classmethod
    def of_project(cls, root: Path, kernels: list[str], lengths: list[int], **suite: Any) -> TestRepository:
        """This checkout's packages as they are now, a plugin `engine.py` and a suite `faults.yaml`, committed."""
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("harness", "plugins"):
            shutil.copytree(ROOT / name, root / name, ignore=ignore)
        shutil.copy(PLUGIN, root / "engine.py")
        fake_suite(root, kernels, lengths, plugins=["engine.py"], **suite)
        return cls.of(root, {".gitignore": "__pycache__\nresults\n"})

    def write(self, files: dict[str, str]) -> None:
        """Write files into the working tree."""
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def commit(self, message: str) -> str:
        """Commit everything; returns the hash."""
        self.git("add", "--all")
        self.git("-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        """Run git, and return what it prints."""
        done = subprocess.run(["git", "-C", str(self.root), *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    @property
    def temporary(self) -> Path:
        """Where commands that this repository starts keep temporary files."""
        return self.root.parent / f"{self.root.name}-temporary"

    @property
    def worktrees(self) -> list[str]:
        """Folders of all working trees that git knows."""
        lines = self.git("worktree", "list", "--porcelain").splitlines()
        return [line.removeprefix("worktree ") for line in lines if line.startswith("worktree ")]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`harness ARGUMENTS` with this repository's own code."""
        path = os.pathsep.join([str(self.root), str(self.root / "plugins")])
        command = [sys.executable, "-P", "-m", "harness.cli.main", *arguments]
        self.temporary.mkdir(exist_ok=True)
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
        return subprocess.Popen(
            command, cwd=self.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
