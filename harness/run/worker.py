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
import math
import os
import queue
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.errors import UnsupportedError, UsageError
from harness.records.record import Status
from harness.run import protocol

if TYPE_CHECKING:
    from harness.measure.conditions import Watch
    from harness.measure.measurement import Measurement

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
"""How allocators that raise a plain RuntimeError or OSError say it (torch's CPU allocator among them)."""
TRACEBACK_LINES = 30
STILL_WARMING = 0.05
"""A repetition that is faster than all before it by this share says that the worker is not warm yet."""


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
        from harness.measure.measurement import Shared
        from harness.measure.no_model import without_model
        from harness.model.presets import resolve

        self.setup = request
        self.shared = Shared()
        random.seed(request.seed)
        torch.manual_seed(request.seed)
        torch.set_num_threads(request.threads)
        registry = Registry(request.plugins)
        self.hooks = registry.manager
        self.parts = registry.load(request.variant)
        config = resolve(request.checkpoint)
        engine = registry.option("engine", request.variant.engine)
        build = engine.load() if request.model else without_model
        self.runner = build(
            EngineRequest(request.checkpoint, config, request.variant, self.parts, request.device, request.seed)
        )
        if request.planted is not None:
            from harness.measure.planted import PlantedRunner

            self.runner = PlantedRunner(self.runner, request.planted, request.seed)
        self.watch = _watch(request.device)
        _keep_for_good()
        return protocol.Ready(self.runner.resolved(), self._context(), protocol.PROTOCOL, _roots())

    def open(self, request: protocol.Open) -> protocol.Opened:
        """Set up and warm up a cell, in the plugins' context managers."""
        from harness.measure.measurement import Bench, import_needs, open_measurement

        self._forget()  # a gate opens the next cell without finishing this one
        begun = time.perf_counter()
        import_needs(request.cell.workload["kind"])
        gc.freeze()
        loading = time.perf_counter() - begun
        bench = Bench(
            runner=self.runner,
            parts=self.parts,
            checkpoint=self.setup.checkpoint,
            seed=self.setup.seed,
            device=self.setup.device,
            folder=Path(self.setup.folder),
            reference=request.reference,
            progress=lambda fraction, text: self.channel.send(protocol.Progress(fraction, text)),
            flush_l2=request.flush_l2,
            own_time=request.own_time,
            threads=self.setup.threads,
            plugins=self.setup.plugins,
            fresh=self.setup.fresh,
            shared=self.shared,
        )
        measurement = open_measurement(request.workload, bench, request.cell)
        for manager in self.hooks.hook.harness_wrap_cell(cell=request.cell):
            self.wrapped.enter_context(manager)
        self.measurement = measurement
        if not measurement.timed:
            return protocol.Opened(False, loading)
        total, last = warm_up(measurement.warm_up, request.warmup, request.warmup_limit)
        return protocol.Opened(True, loading, total, last)

    def block(self, request: protocol.Block) -> protocol.Done:
        """One turn."""
        measurement = self._open_measurement()
        start = time.perf_counter()
        self.watch.start()
        samples: dict[str, list[float]] = {}
        for number in range(request.samples):
            inputs = None if request.inputs is None else request.inputs + number
            for name, values in measurement.block(inputs).items():
                samples.setdefault(name, []).extend(values)
        return protocol.Done(samples, time.perf_counter() - start, self.watch.stop())

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
        if self.setup.device.startswith("cuda") and self.watch.gpu is None:
            context["gpu_conditions"] = "not told: the package nvidia-ml-py or its driver library is not there"
        for implementation in self.hooks.hook.harness_context.get_hookimpls():
            facts = cast("dict[str, Any]", implementation.function())
            for key, value in facts.items():
                if key in context or key in protocol.PARENT_CONTEXT:
                    raise UsageError(f"plugin {implementation.plugin_name!r} gives the context {key!r} a second time")
                context[key] = value
        return context


def warm_up(repeat: Callable[[], None], least: int, most: int) -> tuple[float, float]:
    """Repeat until a repetition no longer beats those before it, within these counts.

    Returns the seconds of all repetitions and of the last one.
    """
    begun, best, seconds = time.perf_counter(), math.inf, 0.0
    for done in range(max(least, most)):
        start = time.perf_counter()
        repeat()
        seconds = time.perf_counter() - start
        if done + 1 >= least and best < math.inf and seconds > best * (1 - STILL_WARMING):
            break
        best = min(best, seconds)
    return time.perf_counter() - begun, seconds


def _keep_for_good() -> None:
    """Model and libraries stay: no collection between cells need look through them again."""
    gc.collect()
    gc.freeze()


def _watch(device: str) -> Watch:
    from harness.measure.conditions import Watch
    from harness.measure.nvml import GpuWatch

    return Watch(GpuWatch.of(device))


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
    for name, place in _roots().items():
        if Path(place) not in (root, root / "plugins"):
            raise UsageError(f"the worker loaded {name!r} from {place!r}; it has to come from {str(root)!r}")


def _roots() -> dict[str, str]:
    """Folder that each of the project's packages was loaded from."""
    files = {name: str(importlib.import_module(name).__file__) for name in ("harness", "harness_plugins")}
    return {name: str(Path(file).resolve().parent.parent) for name, file in files.items()}


def main() -> None:
    """Entry point of the worker process."""
    faulthandler.enable()  # a crash leaves its Python stack in the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # started while the parent held signals back: not inherited
    Worker(Channel()).serve()


if __name__ == "__main__":
    main()
