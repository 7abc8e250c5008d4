"""A plugin with an engine of a few lines and every way in which an engine can go wrong. Loaded with --plugin.

The kernels option names the fault. It strikes in cells whose prompts are `FAULT_LENGTH` tokens long and nowhere
else, so that a test can see that it costs its own cell alone. Needs no tensors: any config.json will do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contract import Option, Query, hookimpl
from harness.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    import torch

    from harness.contract.runner import EngineRequest, Runner

FAULT_LENGTH = 13
"""Prompt length of the cells in which faults strike."""
MEMORY_LIMIT = 6 * 2**30
"""Address space of a worker whose kernels are `hog`."""
LEAK = 2**28
"""Bytes that a worker whose kernels are `leak` may still take when it begins to leak."""


def _crash() -> None:
    print("about to crash", flush=True)
    os._exit(3)


def _segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def _hang() -> None:
    while True:
        time.sleep(1)


def _raise() -> None:
    raise RuntimeError("a planted error\nwith a second line")


def _exit() -> None:
    raise SystemExit(0)


def _hog() -> None:
    import resource

    import torch

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    torch.empty(64 * 2**30, dtype=torch.uint8)


def _leak() -> None:
    import resource

    import torch

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LEAK
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    kept = []
    while True:
        kept.append(torch.empty(2**22, dtype=torch.uint8))


def _killed() -> None:
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def _unsupported() -> None:
    raise UnsupportedError("fake", ["the first reason", "the second reason"])


def _chatter() -> None:
    print('{"type": "done"}\nnot a reply', flush=True)
    os.write(1, b"straight to fd 1\n")


def _nothing() -> None:
    pass


FAULTS: dict[str, Callable[[], None]] = {
    "sound": _nothing,
    "crash": _crash,
    "segfault": _segfault,
    "hang": _hang,
    "raise": _raise,
    "exit": _exit,
    "hog": _hog,
    "leak": _leak,
    "killed": _killed,
    "unsupported": _unsupported,
    "chatter": _chatter,
    "wrong": _nothing,
    "nan": _nothing,
    "load-raise": _nothing,
    "load-usage": _nothing,
    "load-crash": _nothing,
    "load-hang": _nothing,
    "slow": _nothing,
    "not-here": _nothing,
}


@hookimpl
def harness_options() -> Sequence[Option]:
    """The engine `fake`, and a kernels option for every fault."""
    defaults = {
        "form": "mha",
        "selector": "dense",
        "precision": "fp32",
        "cache": "latent",
        "kernels": "sound",
        "decoding": "fake",
    }
    engine = Option("engine", "fake", lambda: build, "a fake", defaults=defaults)
    decoding = Option("decoding", "fake", _load_decoding, "greedy, for the fake")
    return [engine, decoding, *(_fault(name) for name in FAULTS)]


def _fault(name: str) -> Option:
    def unsupported(_: Query) -> Sequence[str]:
        return ["this is not here", "and neither is that"] if name == "not-here" else []

    return Option("kernels", name, lambda: name, f"fault: {name}", unsupported)


@hookimpl
def harness_context() -> dict[str, Any]:
    """Facts to be seen in records."""
    return {"fake_fact": 7, "worker_pid": os.getpid()}


@hookimpl
@contextmanager
def harness_wrap_cell(cell: Any) -> Iterator[None]:
    """Appends what it sees to the file that the test names."""
    _log(f"enter {cell.id}")
    yield
    _log(f"leave {cell.id}")


def _log(line: str) -> None:
    name = os.environ.get("FAKE_WRAP_LOG")
    if name:
        with Path(name).open("a") as file:
            file.write(f"{line}\n")


def _load_decoding() -> object:
    from harness.contract.runner import Decoding

    return Decoding("fake", lambda *_, **__: [])


def build(request: EngineRequest) -> Runner:
    """The fake runner, or the fault that strikes while loading."""
    fault = str(request.parts["kernels"])
    if fault == "load-raise":
        raise ValueError("a planted error while loading")
    if fault == "load-usage":
        raise UsageError("tensor 'model.norm.weight' has shape [3]; allowed: [64]", "model.safetensors")
    if fault == "load-crash":
        os._exit(4)
    if fault == "load-hang":
        _hang()
    return _runner_class()(request, fault)


def _runner_class() -> Callable[[EngineRequest, str], Runner]:  # noqa: C901 (two small classes, made late)
    """Made late, so that registration imports no torch."""
    import torch

    from harness.contract.runner import Runner, State

    width = 8

    class FakeState(State):
        def __init__(self, batch: int, max_len: int) -> None:
            self.cache_BSD = torch.full((batch, max_len, width), float("nan"))
            self.lengths_B = torch.zeros(batch, dtype=torch.int64)

        @property
        def bytes(self) -> int:
            return self.cache_BSD.nbytes

        @property
        def bytes_per_token(self) -> int:
            return width * 4

        def truncate(self, lengths_B: Sequence[int] | torch.Tensor) -> None:
            self.lengths_B = torch.as_tensor(lengths_B)

        def fill_random(self, seed: int, length: int) -> None:
            generator = torch.Generator().manual_seed(seed)
            self.cache_BSD[:, :length] = torch.randn(self.cache_BSD[:, :length].shape, generator=generator)
            self.lengths_B = torch.full_like(self.lengths_B, length)

    class FakeRunner(Runner):
        """Logits project the mean of all cached token vectors."""

        def __init__(self, request: EngineRequest, fault: str) -> None:
            generator = torch.Generator().manual_seed(7)
            self.config, self.device, self.fault = request.config, request.device, fault
            self.embed_VD = torch.randn(request.config.vocab_size, width, generator=generator)
            self.head_DV = torch.randn(width, request.config.vocab_size, generator=generator)

        def new_state(self, batch: int, max_len: int) -> State:
            return FakeState(batch, max_len)

        def prefill(self, tokens_BT: torch.Tensor, state: State, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
            if self.fault == "slow":
                time.sleep(0.3)
            if tokens_BT.shape[1] == FAULT_LENGTH:
                FAULTS[self.fault]()
            return self._append(tokens_BT, state)[:, -1]

        def decode(self, tokens_B: torch.Tensor, state: State) -> torch.Tensor:
            return self._append(tokens_B[:, None], state)[:, -1]

        def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
            return self._append(tokens_BT, FakeState(*tokens_BT.shape))

        def resolved(self) -> dict[str, str]:
            return {"everything": "fake"}

        def _append(self, tokens_BT: torch.Tensor, state: State) -> torch.Tensor:
            assert isinstance(state, FakeState)
            start, end = int(state.lengths_B[0]), int(state.lengths_B[0]) + tokens_BT.shape[1]
            state.cache_BSD[:, start:end] = self.embed_VD[tokens_BT]
            state.lengths_B = torch.full_like(state.lengths_B, end)
            mean_BTD = state.cache_BSD[:, :end].cumsum(1)[:, start:] / torch.arange(start + 1, end + 1)[:, None]
            logits_BTV = (mean_BTD + self.embed_VD[tokens_BT]) @ self.head_DV
            if self.fault in ("wrong", "nan") and tokens_BT.shape[1] == FAULT_LENGTH:
                logits_BTV += 1.0 if self.fault == "wrong" else float("nan")
            return logits_BTV

    return FakeRunner
