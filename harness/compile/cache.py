"""Facts that were found out before, kept by everything that decides the machine code they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.compile.facts import BuildFacts
from harness.kept import Kept, cache_folder

VERSION = 1
"""Part of every key: raise it when facts are found out in another way."""


def key_of(parts: Mapping[str, object]) -> str:
    """Hash of everything that decides a build's machine code, and of how facts are read from it."""
    return hashlib.sha256(repr((VERSION, sorted(parts.items()))).encode()).hexdigest()


def default_folder() -> Path:
    """Where facts are kept between runs."""
    return cache_folder("compile")


@dataclass(frozen=True)
class Cache:
    """Facts per key, of builds that compiled."""

    folder: Path
    fresh: bool = False
    """Whether what is stored is not looked at; what is found out is stored all the same."""

    def get(self, key: str) -> BuildFacts | None:
        """The stored facts; None when there are none."""
        return None if self.fresh else self._kept.get(key)

    def put(self, key: str, facts: BuildFacts) -> None:
        """Store facts of a build that compiled; a failure is never stored."""
        if facts.failure is None:
            self._kept.put(key, facts)

    @property
    def _kept(self) -> Kept[BuildFacts]:
        return Kept(self.folder, BuildFacts)
