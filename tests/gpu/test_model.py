"""Whole models on a GPU: Triton equals eager in FP64, in every form, selector and precision."""

from __future__ import annotations

import pytest
import torch

from harness import load_runner
from harness.model.runner import NativeRunner
from tests.support.checkpoints import random_tokens

pytestmark = pytest.mark.gpu

WORST = {"fp32": 1e-3, "bf16": 0.1}
"""Allowed relative L2 of logits: FP32 sums in another order, BF16 roundings through two layers."""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("form", "selector"), [("mha", "dense"), ("mqa", "dense"), ("mqa", "dsa")])
def test_triton_equals_eager(form: str, selector: str, precision: str) -> None:
    tokens_BT = random_tokens(2, 40, vocab_size=128)
    wanted = load_runner("tiny-v32", form=form, selector=selector, precision="fp64").logits(tokens_BT)
    runner = load_runner("tiny-v32", device="cuda", form=form, selector=selector, precision=precision, kernels="triton")
    given = runner.logits(tokens_BT).cpu().double()
    rows = (given - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert float(rows.median()) < WORST[precision]


def test_tokens_on_a_gpu_are_not_read_back() -> None:
    runner = load_runner("tiny-v3", device="cuda")
    assert isinstance(runner, NativeRunner)
    tokens_BT = random_tokens(2, 3, vocab_size=128).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert runner._counts(tokens_BT, None) == [3, 3]
    finally:
        torch.cuda.set_sync_debug_mode("default")
