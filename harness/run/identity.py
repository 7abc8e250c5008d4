"""What a record speaks of: hashes of weights and machine; results are compared only when they are the same."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from harness.contract.config import ModelConfig
from harness.contract.facts import MachineFacts
from harness.model.presets import WEIGHTS_VERSION

WHOLE_FILE_LIMIT = 2 * 2**30
"""Checkpoints up to this size are hashed whole; of larger ones headers, file sizes and `SAMPLES` of every file."""

SAMPLES, SAMPLE_BYTES = 256, 4096
"""Evenly spaced pieces of a large file: fine-tuned weights differ nearly everywhere, so any piece tells them apart."""


def checkpoint_identity(checkpoint: str, config: ModelConfig, seed: int) -> dict[str, Any]:
    """Name, model type and hash of a directory, or of a preset's dimensions with the seed of its weights."""
    directory = Path(checkpoint)
    if not directory.is_dir():
        content = msgspec.json.encode(config, order="sorted") + f"{seed}/{WEIGHTS_VERSION}".encode()
        digest = hashlib.sha256(content).hexdigest()
        return {"name": checkpoint, "source": "preset", "model_type": config.model_type, "seed": seed, "sha256": digest}
    files = sorted(directory.glob("*.safetensors"))
    whole = sum(file.stat().st_size for file in files) <= WHOLE_FILE_LIMIT
    stamps = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in (directory / "config.json", *files))
    return {
        "name": directory.name,
        "source": "directory",
        "model_type": config.model_type,
        "hash_of": "contents" if whole else "samples",
        "sha256": _hash(stamps, whole),
    }


def fingerprint(facts: MachineFacts) -> str:
    """16 hex digits of what a machine is: hardware and kind of system, never its clocks, load or name.

    Memory counts in whole GiB: what a kernel keeps for itself differs from boot to boot.
    """
    gpu_bytes = facts.gpu_memory_bytes or 0
    hardware = [facts.system, facts.architecture, facts.cpu_model, facts.cpu_count, round(facts.memory_bytes / 2**30)]
    device = [facts.device, facts.gpu_name, round(gpu_bytes / 2**30), facts.compute_capability]
    return hashlib.sha256(msgspec.json.encode([hardware, device])).hexdigest()[:16]


@functools.lru_cache(maxsize=16)
def _hash(stamps: tuple[tuple[Path, int, int], ...], whole: bool) -> str:
    """Of (file, bytes, time of change); the time only tells this process when to hash again."""
    digest = hashlib.sha256()
    for file, size, _ in stamps:
        digest.update(f"{file.name}:{size}\n".encode())
        with file.open("rb") as stream:
            if whole or file.suffix == ".json":
                while block := stream.read(1 << 20):
                    digest.update(block)
            else:
                for piece in _samples(stream, size):
                    digest.update(piece)
    return digest.hexdigest()


def _samples(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """The header of a safetensors file (names, shapes, dtypes), then pieces from all over it."""
    yield stream.read(int.from_bytes(stream.read(8), "little"))
    for place in range(SAMPLES):
        stream.seek(size * place // SAMPLES)
        yield stream.read(SAMPLE_BYTES)
