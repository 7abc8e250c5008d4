"""The worker process: one variant's runner, built once, measured cell by cell as the parent asks.

`python -P -m harness.run.worker`. Nothing that a model, a library or a plugin does can disturb the parent:
requests and replies travel over private copies of stdin and stdout, and prints go to stderr. When the parent
goes away (stdin ends), the worker ends at once, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import queue
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.errors import UnsupportedError, UsageError
from harness.records.record import Status
from harness.run import protocol

if TYPE_CHECKING:
    from harness.measure.measurement import Measurement

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
"""How allocators that raise a plain RuntimeError or OSError say it (torch's CPU allocator among them)."""
TRACEBACK_LINES = 30


class Channel:
    """Private copies of stdin and stdout; fd 0 becomes /dev/null and fd 1 becomes stderr for everybody else."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._replies = os.fdopen(os.dup(1), "wb", buffering=0)
        private_stdin = os.fdopen(os.dup(0), "rb")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        threading.Thread(target=self._read, args=(private_stdin,), daemon=True).start()

    def _read(self, stdin: Any) -> None:
        for line in stdin:
            self._requests.put(line)
        os._exit(0)  # the parent has closed the pipe or is gone: nobody wants an answer any more

    def requests(self) -> Iterator[protocol.Request]:
        """Requests as they come, without end."""
        while True:
            yield protocol.decode_request(self._requests.get())

    def send(self, reply: protocol.Message) -> None:
        """Write one reply, whole. A parent that is gone ends the worker."""
        data = memoryview(protocol.encode(reply))
        while data:
            data = data[self._replies.write(data) or 0 :]


class Worker:
    """Answers requests with the runner of one variant."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.wrapped = contextlib.ExitStack()
        self.measurement: Measurement | None = None

    def serve(self) -> None:
        """Answer until the parent goes away."""
        handlers: dict[type, Callable[[Any], protocol.Message]] = {
            protocol.Load: self.load,
            protocol.Open: self.open,
            protocol.Block: self.block,
            protocol.Finish: self.finish,
        }
        for request in self.channel.requests():
            try:
                reply: protocol.Message = handlers[type(request)](request)
            except BaseException as error:  # SystemExit of a library included: the parent decides what ends
                reply = describe(error)
                self._forget()
            self.channel.send(reply)

    def load(self, request: protocol.Load) -> protocol.Ready:
        """Build the runner. Everything with a name becomes an object here, before any clock starts."""
        _assert_from(Path(request.root))
        import torch

        from harness.contract.registry import Registry
        from harness.contract.runner import EngineRequest
        from harness.model.presets import resolve

        self.setup = request
        random.seed(request.seed)
        torch.manual_seed(request.seed)
        torch.set_num_threads(request.threads)
        registry = Registry(request.plugins)
        self.hooks = registry.manager
        self.parts = registry.load(request.variant)
        config = resolve(request.checkpoint)
        build = registry.option("engine", request.variant.engine).load()
        self.runner = build(
            EngineRequest(request.checkpoint, config, request.variant, self.parts, request.device, request.seed)
        )
        if request.planted is not None:
            from harness.measure.planted import PlantedRunner

            self.runner = PlantedRunner(self.runner, request.planted, request.seed)
        return protocol.Ready(self.runner.resolved(), self._context())

    def open(self, request: protocol.Open) -> protocol.Opened:
        """Set up and warm up a cell, in the plugins' context managers."""
        from harness.measure.measurement import Bench, open_measurement

        bench = Bench(
            runner=self.runner,
            parts=self.parts,
            checkpoint=self.setup.checkpoint,
            seed=self.setup.seed,
            device=self.setup.device,
            folder=Path(self.setup.folder),
            reference=request.reference,
            progress=lambda fraction, text: self.channel.send(protocol.Progress(fraction, text)),
        )
        measurement = open_measurement(request.workload, bench, request.cell)
        for manager in self.hooks.hook.harness_wrap_cell(cell=request.cell):
            self.wrapped.enter_context(manager)
        for _ in range(request.warmup if measurement.timed else 0):
            measurement.warm_up()
        self.measurement = measurement
        return protocol.Opened(measurement.timed)

    def block(self, request: protocol.Block) -> protocol.Done:
        """One turn."""
        measurement = self._open_measurement()
        for _ in range(request.samples):
            measurement.block()
        return protocol.Done()

    def finish(self, _: protocol.Finish) -> protocol.Result:
        """Check and report; plugins' context managers end after the last sample, before a timed cell's check."""
        measurement = self._open_measurement()
        if measurement.timed:
            self.wrapped.close()
        outcome = measurement.finish()
        self.wrapped.close()
        self._forget()
        return protocol.Result(outcome.status, outcome.reasons, outcome.metrics, outcome.context, outcome.documents)

    def _open_measurement(self) -> Measurement:
        assert self.measurement is not None, "the parent opens a cell before it asks for turns"
        return self.measurement

    def _forget(self) -> None:
        """Let go of the open cell, so that its memory is free for the next."""
        self.measurement = None
        with contextlib.suppress(Exception):  # after an error, whose reply matters more
            self.wrapped.close()
        gc.collect()

    def _context(self) -> dict[str, Any]:
        """The worker's own facts and those of plugins; a key given twice is an error."""
        import torch

        context: dict[str, Any] = {
            "torch_threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "matmul_precision": torch.get_float32_matmul_precision(),
        }
        for implementation in self.hooks.hook.harness_context.get_hookimpls():
            facts = cast("dict[str, Any]", implementation.function())
            for key, value in facts.items():
                if key in context or key in protocol.PARENT_CONTEXT:
                    raise UsageError(f"plugin {implementation.plugin_name!r} gives the context {key!r} a second time")
                context[key] = value
        return context


def describe(error: BaseException) -> protocol.Error:
    """The typed form of an exception: unsupported, oom, or failed with the end of its traceback."""
    if isinstance(error, UnsupportedError):
        return protocol.Error(Status.UNSUPPORTED, error.reasons)
    if isinstance(error, UsageError):
        return protocol.Error(Status.FAILED, [str(error)], usage=True)
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    tail = "".join(traceback.format_exception(error)).splitlines()[-TRACEBACK_LINES:]
    status = Status.OOM if _is_out_of_memory(error) else Status.FAILED
    return protocol.Error(status, [reason], "\n".join(tail))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in OUT_OF_MEMORY)


def _assert_from(root: Path) -> None:
    """Both packages must come from the checkout under test: an editable install may point elsewhere."""
    for name in ("harness", "harness_plugins"):
        place = Path(str(importlib.import_module(name).__file__)).resolve().parent.parent
        if place not in (root, root / "plugins"):
            raise UsageError(f"the worker loaded {name!r} from {str(place)!r}; it has to come from {str(root)!r}")


def main() -> None:
    """Entry point of the worker process."""
    faulthandler.enable()  # a crash leaves its Python stack in the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # started while the parent held signals back: not inherited
    Worker(Channel()).serve()


if __name__ == "__main__":
    main()
