"""Memory of long contexts, measured as the largest tensors that are alive at one time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.contract.registry import Registry
from harness.model.build import build_model
from harness.model.checkpoint import RandomTensors
from harness.model.layers import Parts
from harness.model.presets import PRESETS
from harness.model.runner import NativeRunner
from harness.model.state import NativeState
from tests.support.checkpoints import random_tokens

CONFIG = msgspec.structs.replace(
    PRESETS["tiny-v32"], num_hidden_layers=1, mlp_layer_types=("dense",), max_position_embeddings=1 << 16, index_topk=64
)


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest storage that any operator returned, those of a state's caches aside."""

    def __init__(self, state: NativeState) -> None:
        super().__init__()
        self.bytes = 0
        self.caches = {tensor.untyped_storage().data_ptr() for tensor in state.storage()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr() not in self.caches:
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return result


def _runner(form: str, selector: str, cache: str = "latent") -> NativeRunner:
    registry = Registry(entry_points=False)
    parts = registry.load(registry.variant({"form": form, "selector": selector, "cache": cache}))
    chosen = Parts(parts["form"], parts["selector"], parts["precision"], parts["cache"], parts["kernels"])
    return NativeRunner(build_model(CONFIG, chosen, RandomTensors(CONFIG, 0)))


def _largest(runner: NativeRunner, length: int) -> int:
    state = runner.new_state(1, length)
    with LargestTensor(state) as largest:
        runner.prefill(random_tokens(1, length, vocab_size=128), state)
    return largest.bytes


@pytest.mark.parametrize(("form", "selector"), [("mqa", "dense"), ("mqa", "dsa"), ("auto", "dsa"), ("mha", "dsa")])
def test_no_tensor_grows_with_the_square_of_the_context(form: str, selector: str) -> None:
    """A [T, S] tensor of 8K tokens would take 64 MiB as a mask and 256 MiB as scores of one head."""
    runner = _runner(form, selector)
    largest = _largest(runner, 8192)
    assert largest <= 33 << 20
    assert largest < 5 * max(_largest(runner, 2048), 8 << 20)


def test_decode_reads_the_cache_in_place() -> None:
    """A step over 20K cached tokens allocates nothing as large as the cache."""
    for form, selector, cache in (
        ("mqa", "dense", "latent"),
        ("mqa", "dsa", "latent"),
        ("mha", "dense", "expanded"),
        ("mha", "dsa", "expanded"),
    ):
        runner = _runner(form, selector, cache)
        state = runner.new_state(1, 20_001)
        state.fill_random(0, 20_000)
        with LargestTensor(state) as largest:
            runner.decode(torch.tensor([1]), state)
        assert largest.bytes <= 4 * 16 * 20_001  # index scores of 16 heads; the latents take 2.5 times as much


def test_the_state_is_all_that_stays() -> None:
    """Nothing keeps a reference to what a call made: storages of a state are the same before and after."""
    runner = _runner("mqa", "dsa")
    state = runner.new_state(2, 300)
    before = [tensor.data_ptr() for tensor in state.storage()]
    for _ in range(3):
        runner.prefill(random_tokens(2, 100, vocab_size=128), state)
    assert [tensor.data_ptr() for tensor in state.storage()] == before


RESIDENT = """
import re, torch
from harness.contract.registry import Registry
from harness.contract.span import Span

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

operators = Registry(entry_points=False).option("kernels", "eager").load()
rows, queries, span = torch.randn(1, 8000, 80), torch.randn(1, 1000, 8, 80), Span((7000,), (8000,), 1000)
before = peak()
with torch.inference_mode():
    for _ in range(2):  # the allocator changes its ways after the first large blocks have been freed
        operators.mqa_attention(queries, rows, span, 0.1, 64)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of resident memory from Linux")
def test_chunks_leave_no_holes_in_memory() -> None:
    """1,000 queries in chunks whose scores take 4 MiB: what stays resident at the peak, not what is alive."""
    result = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 64 << 20
