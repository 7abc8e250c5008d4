"""`from harness import load_runner`: lazy, and clear about what it cannot do."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch

from harness import load_runner
from harness.contract.runner import Runner
from harness.errors import UnsupportedError, UsageError


def test_importing_harness_imports_no_torch() -> None:
    code = "import harness, sys; assert re.match(r'\\d+\\.\\d+', harness.__version__); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", "import re; " + code], check=False).returncode == 0


def test_a_model_is_built_and_run_without_torchs_compiler() -> None:
    code = (
        "import sys, torch, harness\n"
        "runner = harness.load_runner('tiny-v32', selector='dsa')\n"
        "runner.decode(torch.tensor([1]), runner.new_state(1, 2))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_session_of_the_readme() -> None:
    runner = load_runner("tiny-v32", engine="native", form="mqa", selector="dsa", precision="fp32", kernels="eager")
    assert isinstance(runner, Runner)
    tokens_BT = torch.randint(128, (2, 30))
    state = runner.new_state(batch=2, max_len=64)
    first_BV = runner.prefill(tokens_BT, state)
    second_BV = runner.decode(first_BV.argmax(-1), state)
    assert first_BV.shape == second_BV.shape == (2, 128)
    assert runner.logits(tokens_BT, torch.tensor([30, 7])).shape == (2, 30, 128)
    assert runner.logits(tokens_BT).dtype == torch.float32
    assert set(runner.resolved()) >= {"rms_norm", "mqa_sparse_attention", "select_topk"}


def test_every_reason_is_listed() -> None:
    with pytest.raises(UnsupportedError) as error:
        load_runner("tiny-v3", form="mqa", selector="dsa", cache="expanded")
    assert len(error.value.reasons) == 2
    assert "form mqa reads latents, and cache expanded keeps only keys and values; allowed: mha" in str(error.value)
    assert "selector dsa needs a checkpoint with an indexer; this deepseek_v3 has none" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "mqq"}, "unknown form 'mqq'; did you mean 'mqa'?"),
        ({"engine": "nativ"}, "unknown engine 'nativ'; did you mean 'native'?"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"checkpoint": "tiny-v33"}, "neither a directory nor a preset; did you mean 'tiny-v3"),
    ],
)
def test_unknown_names(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load_runner(**({"checkpoint": "tiny-v3"} | arguments))


def test_a_state_of_another_engine_is_refused() -> None:
    runner = load_runner("tiny-v3")
    with pytest.raises(UsageError, match="a native runner needs a state from its own new_state, not a object"):
        runner.decode(torch.tensor([0]), object())  # type: ignore[arg-type]


def test_scores_are_those_of_the_logits() -> None:
    runner = load_runner("tiny-v3")
    tokens_BT = torch.randint(128, (3, 20))
    chosen_BT, best_BT = runner.score(tokens_BT)
    expected_BT, greedy_BT = Runner.score(runner, tokens_BT)
    assert torch.allclose(chosen_BT, expected_BT, atol=1e-5)
    assert torch.equal(best_BT, greedy_BT)
    assert chosen_BT.shape == (3, 19)
