"""What was found out once and takes long to find out again, kept in the user's cache directory between processes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


def cache_folder(kind: str) -> Path:
    """Where what is kept of one kind belongs, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "deepseek-harness" / kind


@dataclass(frozen=True)
class Kept(Generic[T]):
    """One file a key. What cannot be read or written costs the time to find it out again, and nothing else."""

    folder: Path
    type: type[T]
    """Of every value; a file with anything else in it counts as none."""

    def get(self, key: str) -> T | None:
        """The value of a key, a hash of everything that decides it; None when there is none."""
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=self.type)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, key: str, value: T) -> None:
        """Keep a value, whole or not at all."""
        path = self._path(key)
        draft = path.with_suffix(f".{os.getpid()}.part")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(value))
            draft.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
