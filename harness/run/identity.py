"""Which weights a record speaks of: a content hash, so that two results are compared only when they are the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from harness.contract.config import ModelConfig

WHOLE_FILE_LIMIT = 2 * 2**30
"""Checkpoints up to this size are hashed whole; of larger ones the tensors' names, shapes and file sizes."""


def checkpoint_identity(checkpoint: str, config: ModelConfig, seed: int) -> dict[str, Any]:
    """Name, model type and hash of a directory, or of a preset's dimensions with the seed of its weights."""
    directory = Path(checkpoint)
    if not directory.is_dir():
        content = msgspec.json.encode(config, order="sorted") + str(seed).encode()
        digest = hashlib.sha256(content).hexdigest()
        return {"name": checkpoint, "source": "preset", "model_type": config.model_type, "seed": seed, "sha256": digest}
    files = sorted(directory.glob("*.safetensors"))
    whole = sum(file.stat().st_size for file in files) <= WHOLE_FILE_LIMIT
    return {
        "name": directory.name,
        "source": "directory",
        "model_type": config.model_type,
        "hash_of": "contents" if whole else "headers",
        "sha256": _hash([directory / "config.json", *files], whole),
    }


def _hash(files: list[Path], whole: bool) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            if whole or file.suffix == ".json":
                while block := stream.read(1 << 20):
                    digest.update(block)
            else:
                digest.update(_header(stream.read(8), stream.read))
    return digest.hexdigest()


def _header(length: bytes, read: Any) -> bytes:
    """The JSON header of a safetensors file, in a canonical form."""
    content = json.loads(read(int.from_bytes(length, "little")))
    return json.dumps(content, sort_keys=True).encode()
