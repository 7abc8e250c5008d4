"""Another version of the code beside this one: a git ref in a temporary worktree, gone again whatever happens."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError, unknown
from harness.run.interrupts import shielded


@dataclass(frozen=True)
class Repository:
    """A git repository, by the root of its working tree."""

    root: Path

    @classmethod
    def around(cls, path: Path) -> Repository:
        """The repository that `path` lies in. Raises UsageError when there is none, or no git."""
        folder = path if path.is_dir() else path.parent
        try:
            top = _git(folder, "rev-parse", "--show-toplevel")
        except _GitError as error:
            raise UsageError(f"--against needs a git repository around it: {error}", str(path)) from None
        return cls(Path(top).resolve())

    def commit(self, ref: str) -> str:
        """The full hash of a ref. Raises UsageError, with the nearest name, when there is no such ref."""
        try:
            return _git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        except _GitError:
            names = _git(self.root, "for-each-ref", "--format=%(refname:short)").split()
            error = unknown("git ref", ref, names, f"--against {ref}")
        raise UsageError(f"{error.message}. A shallow clone has to fetch it first: git fetch origin {ref}", error.where)

    @contextlib.contextmanager
    def worktree(self, commit: str) -> Iterator[Worktree]:
        """The files of a commit in a folder of their own. Raises UsageError when they cannot be checked out."""
        folder = Path(tempfile.mkdtemp(prefix="harness-gate-")).resolve()
        tree = folder / "base"
        try:
            with shielded():
                _git(self.root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(tree), commit)
            yield Worktree(self, tree)
        except _GitError as error:
            raise UsageError(f"cannot be checked out: {error}", commit) from None
        finally:
            with shielded():
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        """Files first: what git then notices to be missing it forgets."""
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(_GitError):
            _git(self.root, "worktree", "prune")


@dataclass(frozen=True)
class Worktree:
    """A checked-out commit, and where things of the working tree lie in it."""

    repository: Repository
    root: Path

    def of(self, path: Path) -> Path:
        """The same file or folder in this version; a path outside the repository is the same in every version."""
        path = path.resolve()
        return self.root / path.relative_to(self.repository.root) if self.contains(path) else path

    def contains(self, path: Path) -> bool:
        """Whether a path of the working tree is under version control's roof, and not an installed environment."""
        inside = path.resolve().is_relative_to(self.repository.root)
        return inside and not {"site-packages", "dist-packages"} & set(path.resolve().parts)

    def places(self, paths: Sequence[str]) -> list[str]:
        """The same for the entries of a module search path."""
        return [str(self.of(Path(path))) for path in paths]


class _GitError(Exception):
    """What git had to say."""


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise _GitError(error.strerror) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise _GitError(lines[-1] if lines else f"git {arguments[0]} failed")
    return done.stdout.strip()
