"""Facts that were found out before, kept by everything that decides the machine code they are of."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.compile.facts import BuildFacts

VERSION = 1
"""Part of every key: raise it when facts are found out in another way."""


def key_of(parts: Mapping[str, object]) -> str:
    """Hash of everything that decides a build's machine code, and of how facts are read from it."""
    return hashlib.sha256(repr((VERSION, sorted(parts.items()))).encode()).hexdigest()


def default_folder() -> Path:
    """Where caches belong by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "deepseek-harness" / "compile"


@dataclass(frozen=True)
class Cache:
    """One file of facts per key. What cannot be read or written costs a compilation, and nothing else."""

    folder: Path
    fresh: bool = False
    """Whether what is stored is not looked at; what is found out is stored all the same."""

    def get(self, key: str) -> BuildFacts | None:
        """The stored facts; None when there are none. A failure is never stored."""
        if self.fresh:
            return None
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=BuildFacts)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, key: str, facts: BuildFacts) -> None:
        """Store facts of a build that compiled, whole or not at all."""
        if facts.failure is not None:
            return
        path = self._path(key)
        draft = path.with_suffix(f".{os.getpid()}.part")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(facts))
            draft.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
