"""Where a model's tensors come from: an unmodified Hugging Face directory, or a seed.

Every tensor is named as on disk, one per routed expert, whatever the files contain. Safetensors only: pickled
`.bin` files can run code and are refused.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.contract.config import ModelConfig
from harness.contract.fp8_tensors import BlockScaled
from harness.contract.precision import StoredWeight
from harness.errors import UsageError, unknown
from harness.model.parameters import Shape, disk_shapes, ignored, stacks
from harness.model.random_weights import random_tensor

FLOATS = {"F64", "F32", "F16", "BF16"}
FP8 = "F8_E4M3"
SCALE = "_scale_inv"


class Tensors(ABC):
    """The tensors of a checkpoint by their Hugging Face names on disk (see `parameters.disk_shapes`)."""

    def __init__(self, config: ModelConfig, mtp: bool = False) -> None:
        self.config, self.mtp = config, mtp
        self.shapes = disk_shapes(config, mtp)
        """Of what the model needs; multi-token-prediction layers are among it with `mtp` alone."""

    def names(self) -> list[str]:
        """Every name that the model needs."""
        return list(self.shapes)

    @abstractmethod
    def get(self, name: str) -> Tensor:
        """One tensor on the CPU in a plain floating-point format; FP8 weights are dequantised to float32."""

    def stored(self, name: str) -> StoredWeight:
        """One tensor on the CPU as it is stored: FP8 weights with their scales."""
        return self.get(name)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor), one at a time."""
        return ((name, self.get(name)) for name in self.names())


def open_tensors(checkpoint: str, config: ModelConfig, seed: int = 0, mtp: bool = False) -> Tensors:
    """Tensors of a directory, or of a preset under `seed`; those of its prediction layers too with `mtp`.

    Raises UsageError for a directory whose files are unreadable or do not fit `config`: every missing, unknown or
    misshapen tensor is named with its file, the expected and the found shape.
    """
    directory = Path(checkpoint)
    return DirectoryTensors(directory, config, mtp) if directory.is_dir() else RandomTensors(config, seed, mtp)


class RandomTensors(Tensors):
    """Seeded random weights; a tensor depends on seed, name and shape alone, not on when it is asked for."""

    def __init__(self, config: ModelConfig, seed: int, mtp: bool = False) -> None:
        super().__init__(config, mtp)
        self.seed = seed

    def get(self, name: str) -> Tensor:
        """See `random_weights.random_tensor`."""
        return random_tensor(self.seed, name, self.shapes[name])


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, or the part of a stacked tensor that a name on disk stands for."""

    file: Path
    name: str
    shape: Shape
    kind: str
    """Safetensors dtype, such as `BF16`."""
    expert: int | None = None
    rows: tuple[int, int] = (0, 0)
    """First and last-but-one row of that expert's part."""


class DirectoryTensors(Tensors):
    """A Hugging Face directory, checked against the config when opened."""

    def __init__(self, directory: Path, config: ModelConfig, mtp: bool = False) -> None:
        super().__init__(config, mtp)
        self._directory = directory
        self._handles = {path: _open(path) for path in _files(directory)}
        found = {stored.name: stored for path, handle in self._handles.items() for stored in _listing(path, handle)}
        self._stored = _unstacked(found, stacks(config, mtp))
        self._check()

    def get(self, name: str) -> Tensor:
        """See `Tensors.get`."""
        weight = self.stored(name)
        return weight.dense() if isinstance(weight, BlockScaled) else weight

    def stored(self, name: str) -> StoredWeight:
        """See `Tensors.stored`."""
        stored = self._stored[name]
        tensor = self._read(stored)
        if stored.kind != FP8:
            return tensor
        assert self.config.fp8_block is not None
        return BlockScaled(tensor, self._read(self._stored[name + SCALE]), self.config.fp8_block)

    def _read(self, stored: Stored) -> Tensor:
        handle = self._handles[stored.file]
        if stored.expert is None:
            return handle.get_tensor(stored.name)
        return handle.get_slice(stored.name)[stored.expert][slice(*stored.rows)]

    # --- checks, before anything is read ------------------------------------------------------------

    def _check(self) -> None:
        expected = self.shapes
        misfits = (self._misfit(name, shape) for name, shape in expected.items() if name in self._stored)
        problems = [*self._missing(expected), *self._unknown(expected), *filter(None, misfits)]
        if problems:
            shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
            raise UsageError("the tensors do not fit config.json: " + "; ".join(shown), str(self._directory))

    def _missing(self, expected: dict[str, Shape]) -> list[str]:
        return [
            f"{name} {list(shape)} is missing (files: {', '.join(path.name for path in self._handles)})"
            for name, shape in expected.items()
            if name not in self._stored
        ]

    def _unknown(self, expected: dict[str, Shape]) -> list[str]:
        return [
            f"{stored.file.name}: " + unknown("tensor", name, expected).message.partition(" allowed:")[0].rstrip(";")
            for name, stored in self._stored.items()
            if name.removesuffix(SCALE) not in expected and not ignored(name, self.config, self.mtp)
        ]

    def _misfit(self, name: str, shape: Shape) -> str | None:
        stored = self._stored[name]
        where = f"{stored.file.name}: {name}"
        if stored.shape != shape:
            return f"{where} has shape {list(stored.shape)}, expected {list(shape)}"
        if stored.kind == FP8:
            return self._scale_misfit(where, name, shape)
        if stored.kind not in FLOATS:
            return f"{where} is stored as {stored.kind}; allowed: {', '.join(sorted(FLOATS))}, {FP8}"
        return None

    def _scale_misfit(self, where: str, name: str, shape: Shape) -> str | None:
        if self.config.fp8_block is None:
            return f"{where} is stored as {FP8}, but config.json has no quantization_config"
        scale = self._stored.get(name + SCALE)
        if scale is None:
            return f"{where} is stored as {FP8}, but {name}{SCALE} is missing"
        blocks = tuple(-(-size // block) for size, block in zip(shape[-2:], self.config.fp8_block, strict=True))
        if scale.shape != blocks:
            return f"{scale.file.name}: {name}{SCALE} has shape {list(scale.shape)}, expected {list(blocks)}"
        return None


def _files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint. Raises UsageError when there are none, or a shard is missing."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return _shards(index)
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    pickled = sorted(path.name for path in directory.glob("*.bin"))
    hint = f"; it has {pickled[0]}, which is pickled: convert it to safetensors" if pickled else ""
    raise UsageError(f"no model.safetensors and no model.safetensors.index.json there{hint}", str(directory))


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"not an index with a weight_map: {type(error).__name__}: {error}", str(index)) from None
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise UsageError(f"names files that are not there: {', '.join(absent)}", str(index))
    return [index.parent / name for name in names]


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"not a readable safetensors file: {error}", str(path)) from None


def _listing(path: Path, handle: safe_open) -> Iterator[Stored]:
    for name in handle.keys():  # noqa: SIM118 - not a mapping
        view = handle.get_slice(name)
        yield Stored(path, name, tuple(view.get_shape()), view.get_dtype())


def _unstacked(found: dict[str, Stored], stacked: dict[str, list[list[str]]]) -> dict[str, Stored]:
    """The same tensors, stacked experts (as transformers holds them in memory) replaced by one entry per expert."""
    result = dict(found)
    for name, rows in stacked.items():
        stack = result.pop(name, None)
        if stack is None:
            continue
        if len(stack.shape) != 3 or stack.shape[0] != len(rows) or stack.shape[1] % len(rows[0]):
            raise UsageError(
                f"{name} has shape {list(stack.shape)}, expected {len(rows)} stacked experts", str(stack.file)
            )
        height = stack.shape[1] // len(rows[0])
        for expert, names in enumerate(rows):
            for half, member in enumerate(names):
                part = (half * height, (half + 1) * height)
                result[member] = Stored(stack.file, name, (height, stack.shape[2]), stack.kind, expert, part)
    return result
