"""The `hf` engine against plain calls of transformers, on random tiny checkpoints of every model type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness import load_runner
from harness.contract.runner import Runner
from harness.contract.synthetic import LATENT, synthetic_field
from harness.errors import UsageError
from tests.support.checkpoints import MODEL_TYPES, YARN, random_tokens, save_checkpoint

SAME = 1e-5
"""Relative L2 in FP32 between two orders of the same sums, the bound asked of native against transformers."""


def hf_runner(directory: Path, **choices: str) -> Runner:
    return load_runner(str(directory), engine="hf", **choices)


def plain(directory: Path, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Logits by nothing but transformers: [B, T, vocab]."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(tokens_BT).logits


def distance(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((given.double() - wanted.double()).norm() / wanted.double().norm())


def natural_selector(model_type: str) -> str:
    return "dsa" if model_type in ("deepseek_v32", "glm_moe_dsa") else "dense"


@pytest.fixture(params=MODEL_TYPES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Runner]:
    directory = save_checkpoint(tmp_path / "model", request.param, seed=3, rope_parameters=YARN)
    return directory, hf_runner(directory, selector=natural_selector(request.param))


def test_logits_are_those_of_transformers(case: tuple[Path, Runner]) -> None:
    directory, runner = case
    tokens_BT = random_tokens(2, 23)
    assert torch.equal(runner.logits(tokens_BT), plain(directory, tokens_BT))


def test_prefill_chunks_and_decode_equal_whole_logits(case: tuple[Path, Runner]) -> None:
    directory, runner = case
    tokens_BT = random_tokens(2, 23)
    wanted_BTV = plain(directory, tokens_BT)
    state = runner.new_state(batch=2, max_len=23)
    assert distance(runner.prefill(tokens_BT[:, :9], state), wanted_BTV[:, 8]) < SAME
    assert distance(runner.prefill(tokens_BT[:, 9:16], state), wanted_BTV[:, 15]) < SAME
    for position in range(16, 23):
        assert distance(runner.decode(tokens_BT[:, position], state), wanted_BTV[:, position]) < SAME
    assert state.lengths_B.tolist() == [23, 23]


def test_ragged_chunks_and_decode_equal_single_sequences(case: tuple[Path, Runner]) -> None:
    directory, runner = case
    tokens_BT = random_tokens(3, 20)
    chunks = [torch.tensor([6, 2, 4]), torch.tensor([1, 5, 3])]
    state = runner.new_state(batch=3, max_len=20)
    start_B = torch.zeros(3, dtype=torch.int64)
    for lengths_B in chunks:
        columns_BT = start_B[:, None] + torch.arange(8)  # one column more than the longest: padding everywhere
        logits_BV = runner.prefill(tokens_BT.gather(1, columns_BT), state, lengths_B)
        start_B = start_B + lengths_B
        assert_last_of_each(directory, tokens_BT, start_B, logits_BV)
    for _ in range(3):
        logits_BV = runner.decode(tokens_BT.gather(1, start_B[:, None])[:, 0], state)
        start_B = start_B + 1
        assert_last_of_each(directory, tokens_BT, start_B, logits_BV)
    assert state.lengths_B.tolist() == start_B.tolist() == [10, 10, 10]


def assert_last_of_each(
    directory: Path, tokens_BT: torch.Tensor, ends_B: torch.Tensor, logits_BV: torch.Tensor
) -> None:
    for row, length in enumerate(ends_B.tolist()):
        alone_TV = plain(directory, tokens_BT[row : row + 1, :length])[0]
        assert distance(logits_BV[row], alone_TV[-1]) < SAME


@pytest.mark.parametrize("model_type", ["deepseek_v3", "deepseek_v32"])
def test_truncated_sequences_continue_as_if_never_longer(model_type: str, tmp_path: Path) -> None:
    directory = save_checkpoint(tmp_path / "model", model_type, seed=5)
    runner = hf_runner(directory, selector=natural_selector(model_type))
    tokens_BT = random_tokens(2, 16)
    state = runner.new_state(batch=2, max_len=16)
    runner.prefill(tokens_BT, state)
    state.truncate([11, 6])
    logits_BV = runner.decode(tokens_BT[[0, 1], [11, 6]], state)
    for row, length in ((0, 12), (1, 7)):
        assert distance(logits_BV[row], plain(directory, tokens_BT[row : row + 1, :length])[0, -1]) < SAME
    state.truncate([0, 0])
    assert torch.equal(runner.prefill(tokens_BT, state), runner.prefill(tokens_BT, runner.new_state(2, 16)))
    with pytest.raises(ValueError, match="cannot truncate"):
        state.truncate([17, 3])


def test_equal_lengths_take_the_path_without_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner: Any = hf_runner(save_checkpoint(tmp_path / "model", "deepseek_v3"))
    state = runner.new_state(batch=2, max_len=32)
    monkeypatch.setattr(runner, "_padded", lambda *_: pytest.fail("took the masked path"))
    tokens_BT = random_tokens(2, 8)
    runner.prefill(tokens_BT, state)
    runner.prefill(tokens_BT, state, torch.tensor([8, 8]))
    state.truncate([12, 12])
    runner.decode(tokens_BT[:, 0], state)


@pytest.mark.parametrize("model_type", ["deepseek_v32", "glm_moe_dsa"])
def test_selector_dense_drops_the_indexer_and_attends_to_everything(model_type: str, tmp_path: Path) -> None:
    directory = save_checkpoint(tmp_path / "model", model_type, seed=2, index_topk=8, rope_parameters=YARN)
    everything = save_checkpoint(tmp_path / "all", model_type, seed=2, index_topk=64, rope_parameters=YARN)
    runner: Any = hf_runner(directory, selector="dense")
    tokens_BT = random_tokens(2, 30)
    assert distance(runner.logits(tokens_BT), plain(everything, tokens_BT)) < SAME
    assert distance(runner.logits(tokens_BT), plain(directory, tokens_BT)) > 100 * SAME
    assert not [name for name, _ in runner.model.named_parameters() if "indexer" in name]
    assert "DeepseekV3ForCausalLM" in runner.resolved()["model"]


@pytest.mark.parametrize("kernels", ["sdpa", "hf-eager"])
def test_kernels_choose_the_attention_implementation(kernels: str, tmp_path: Path) -> None:
    runner = hf_runner(save_checkpoint(tmp_path / "model", "deepseek_v3"), kernels=kernels)
    assert runner.resolved()["attention"] == {"sdpa": "sdpa", "hf-eager": "eager"}[kernels]


def test_bf16_computes_in_bf16_and_answers_in_float32(tmp_path: Path) -> None:
    directory = save_checkpoint(tmp_path / "model", "deepseek_v3")
    runner, exact = hf_runner(directory, precision="bf16"), hf_runner(directory)
    tokens_BT = random_tokens(1, 12)
    logits_BTV = runner.logits(tokens_BT)
    state = runner.new_state(1, 13)
    answers = [logits_BTV, runner.prefill(tokens_BT, state), runner.decode(tokens_BT[:, 0], state)]
    assert [answer.dtype for answer in answers] == [torch.float32] * 3
    assert 1e-4 < distance(logits_BTV, exact.logits(tokens_BT)) < 0.1
    assert runner.new_state(1, 8).bytes_per_token * 2 == exact.new_state(1, 8).bytes_per_token


def test_bytes_are_those_of_latents_and_keys(case: tuple[Path, Runner]) -> None:
    _, runner = case
    state = runner.new_state(batch=2, max_len=16)
    assert state.bytes == 0
    runner.prefill(random_tokens(2, 10), state)
    assert state.bytes == 2 * 10 * state.bytes_per_token
    widths = 24 + 8 + (16 if runner.config.has_indexer else 0)
    assert state.bytes_per_token == 2 * widths * 4


def test_synthetic_content_is_the_declared_one(case: tuple[Path, Runner]) -> None:
    _, runner = case
    state: Any = runner.new_state(batch=2, max_len=40)
    state.fill_random(seed=7, length=33)
    assert torch.equal(state.cache.layers[1].keys[1, 0], synthetic_field(7, 1, LATENT, 0, 33, 24))
    assert state.lengths_B.tolist() == [33, 33]
    logits_BV = runner.decode(torch.tensor([5, 5]), state)
    assert torch.isfinite(logits_BV).all()
    with pytest.raises(ValueError, match="cannot be filled"):
        state.fill_random(7, 41)


def test_states_have_a_capacity(tmp_path: Path) -> None:
    runner = hf_runner(save_checkpoint(tmp_path / "model", "deepseek_v3", max_position_embeddings=64))
    with pytest.raises(UsageError, match="65 tokens do not fit this model: max_position_embeddings is 64"):
        runner.new_state(1, 65)
    state = runner.new_state(2, 8)
    with pytest.raises(UsageError, match="cannot hold"):
        runner.prefill(random_tokens(2, 9), state)
    with pytest.raises(UsageError, match="2 sequences got tokens for 3"):
        runner.prefill(random_tokens(3, 4), state)
    for lengths in ([0, 4], [4, 5], [4]):
        with pytest.raises(UsageError, match="allowed: 1 to 4"):
            runner.prefill(random_tokens(2, 4), state, torch.tensor(lengths))


def test_a_missing_tensor_is_an_error_and_not_random_numbers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = save_checkpoint(tmp_path / "model", "deepseek_v3")
    tensors = load_file(directory / "model.safetensors")
    removed = tensors.pop("model.layers.0.self_attn.kv_b_proj.weight")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"missing: model\.layers\.0\.self_attn\.kv_b_proj\.weight"):
        hf_runner(directory)
    tensors["model.layers.0.self_attn.kv_b_proj.weight"] = removed[:, :5].contiguous()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"of a wrong shape: .*kv_b_proj\.weight is \(88, 5\), not \(88, 24\)"):
        hf_runner(directory)


def test_unreadable_weights_are_a_usage_error(tmp_path: Path) -> None:
    directory = save_checkpoint(tmp_path / "model", "deepseek_v3")
    (directory / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UsageError, match="cannot load the weights"):
        hf_runner(directory)
    (directory / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="cannot load the weights"):
        hf_runner(directory)


def test_a_tensor_without_a_place_is_an_error_but_the_mtp_layer_is_not(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = save_checkpoint(tmp_path / "model", "deepseek_v3")
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.2.eh_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    hf_runner(directory)
    tensors["model.layers.1.surprise.weight"] = torch.zeros(2, 2)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"no place for: model\.layers\.1\.surprise\.weight"):
        hf_runner(directory)
