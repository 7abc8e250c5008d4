"""Multi-token prediction: the formula by hand, transformers' own layer, and the way to disk and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import load_runner
from harness.contract.config import ModelConfig
from harness.contract.registry import Registry
from harness.contract.span import Span
from harness.errors import UsageError
from harness.model.attention import Positions
from harness.model.build import build_model
from harness.model.checkpoint import RandomTensors, open_tensors
from harness.model.export import on_disk, write_checkpoint
from harness.model.layers import Parts
from harness.model.mtp import look_ahead, mtp_layers
from harness.model.parameters import MTP_COPIES, disk_shapes
from harness.model.presets import PRESETS
from harness.model.transformer import CausalLm
from tests.support.checkpoints import random_tokens
from tests.support.running import relative_l2

CONFIG = PRESETS["tiny-v32-mtp"]
TOKENS = random_tokens(2, 40, vocab_size=128)


def parts(selector: str = "dense", precision: str = "fp32", form: str = "mha") -> Parts:
    registry = Registry(entry_points=False)
    chosen: Any = registry.load(registry.variant({"form": form, "selector": selector, "precision": precision}))
    return Parts(chosen["form"], chosen["selector"], chosen["precision"], chosen["cache"], chosen["kernels"])


def model_of(config: ModelConfig = CONFIG, **choices: str) -> CausalLm:
    return build_model(config, parts(**choices), RandomTensors(config, 0, mtp=True))


def hidden_of(model: CausalLm, tokens_BT: torch.Tensor = TOKENS) -> torch.Tensor:
    return model.hidden(tokens_BT, Span.fresh(*tokens_BT.shape))


# --- the formula ----------------------------------------------------------------------------------------


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + CONFIG.rms_norm_eps).sqrt()


def by_hand(model: CausalLm, tokens: list[int], selector: str) -> torch.Tensor:
    """Logits [T - 1, vocab] of one sequence, a token at a time, from the tensors under their names on disk.

    The decoder layer inside is layer 1 of a main model that has the prediction layer's weights there.
    """
    tensors = on_disk(model)
    prefix = "model.layers.2."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    twin = build_model(CONFIG, parts(selector, "fp64"), RandomTensors(CONFIG, 0))
    inside = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}
    layer = twin.layers()[1]
    layer.load_state_dict({name: inside[prefix + name] for name in layer.state_dict()})
    hidden_TD = hidden_of(model, torch.tensor([tokens]))[0]
    embedding_VD, head_VD = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    joined = []
    for position in range(len(tokens) - 1):
        next_token = tokens[position + 1]
        embedded = norm(embedding_VD[next_token], own["enorm.weight"])
        known = norm(hidden_TD[position], own["hnorm.weight"])
        left, right = own["eh_proj.weight"].split(CONFIG.hidden_size, 1)  # embedding first
        joined.append(left @ embedded + right @ known)
    span = Span.fresh(1, len(joined))
    positions = Positions(span, *twin.rotary.tables(span, torch.float64))
    out_TD = layer(torch.stack(joined)[None], positions, None, None)[0]
    return norm(out_TD, own["shared_head.norm.weight"]) @ head_VD.T


@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_it_computes_the_formula(selector: str) -> None:
    model = model_of(selector=selector, precision="fp64")
    (logits_BTV,) = look_ahead(model, hidden_of(model), TOKENS)
    assert logits_BTV.shape == (2, 39, 128)
    for row, tokens in zip(logits_BTV, TOKENS.tolist(), strict=True):
        torch.testing.assert_close(row, by_hand(model, tokens, selector), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("selector", ["dense", "dsa"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_row_has_read_the_tokens_up_to_its_depth_and_no_more(selector: str, depth: int) -> None:
    """Row t of depth k predicts token t + k + 1: it depends on token t + k, and not on the one that it predicts."""
    model = model_of(msgspec.structs.replace(CONFIG, num_nextn_predict_layers=2), selector=selector, precision="fp64")

    def rows(tokens_BT: torch.Tensor) -> torch.Tensor:
        return list(look_ahead(model, hidden_of(model, tokens_BT), tokens_BT))[depth - 1]

    before, changed = rows(TOKENS), TOKENS.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 128
    differs = (rows(changed) != before).any(-1).any(0)
    first = 20 - depth
    assert not differs[:first].any()
    assert differs[first:].all() if selector == "dense" else differs[first]
    assert before.shape[1] == 40 - depth


def test_the_depths_are_chained() -> None:
    """Depth 2 takes what depth 1 makes, normed (equation 21)."""
    model = model_of(msgspec.structs.replace(CONFIG, num_nextn_predict_layers=2), precision="fp64")
    first, second = mtp_layers(model)
    hidden_BTD = hidden_of(model)
    for depth, layer in enumerate((first, second), 1):
        span = Span.fresh(2, 40 - depth)
        positions = Positions(span, *model.rotary.tables(span, torch.float64))
        hidden_BTD = layer.predict(hidden_BTD[:, :-1], model.model.embed_tokens(TOKENS[:, depth:]), positions)
    last = list(look_ahead(model, hidden_of(model), TOKENS))[-1]
    torch.testing.assert_close(model.head(hidden_BTD), last)


def test_it_equals_transformers_own_layer(tmp_path: Path) -> None:
    """Two independent readers of one directory with a prediction layer."""
    from transformers import AutoModelForCausalLM
    from transformers.modeling_layers import MtpModel

    config = msgspec.structs.replace(PRESETS["tiny-v3"], num_nextn_predict_layers=1)
    model = model_of(config)
    write_checkpoint(model, tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    # transformers finds a prediction layer by the number that it has in the full model.
    peer._keys_to_ignore_on_load_unexpected = [r"model\.layers\.2.*"]
    ahead = MtpModel.from_pretrained(peer).eval()
    with torch.no_grad():
        hidden = peer(TOKENS, output_hidden_states=True).hidden_states[-1]
        places = torch.arange(1, 40)[None]
        out = ahead.forward_layer(0, hidden[:, :-1], places, None, input_ids=TOKENS[:, 1:])
        expected = peer.lm_head(out)
    (logits_BTV,) = look_ahead(model, hidden_of(model), TOKENS)
    assert relative_l2(logits_BTV.detach(), expected) < 1e-5


# --- disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_checkpoint(model_of(), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def read(directory: Path) -> CausalLm:
    config = ModelConfig.read(directory)
    return build_model(config, parts(), open_tensors(str(directory), config, mtp=True))


def test_the_names_are_those_of_the_released_checkpoints(written: Path) -> None:
    names = {name.removeprefix("model.layers.2.") for name in load_file(written / "model.safetensors")}
    assert {
        "enorm.weight",
        "hnorm.weight",
        "eh_proj.weight",
        "shared_head.norm.weight",
        "input_layernorm.weight",
    } < names
    assert {"mlp.experts.7.down_proj.weight", "mlp.gate.e_score_correction_bias"} < names
    assert {"self_attn.indexer.wk.weight", "self_attn.kv_b_proj.weight", "input_layernorm.weight"} < names
    assert not names & set(MTP_COPIES)


def test_what_is_written_is_read_back(written: Path) -> None:
    assert ModelConfig.read(written) == CONFIG
    before, after = model_of().state_dict(), read(written).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_copies_of_embedding_and_head_are_not_read(written: Path) -> None:
    def copy(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.2.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.2.shared_head.head.weight"] = tensors["lm_head.weight"].clone()

    expected = read(written).state_dict()
    edit(written, copy)
    found = read(written).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_tensor_of_the_layer_that_is_missing_misnamed_or_misshapen_is_named(written: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.2.hnormm.weight"] = tensors.pop("model.layers.2.hnorm.weight")
        tensors["model.layers.2.eh_proj.weight"] = torch.zeros(64, 64)

    edit(written, spoil)
    with pytest.raises(UsageError) as error:
        read(written)
    message = str(error.value)
    assert "model.layers.2.hnorm.weight [64] is missing" in message
    assert "unknown tensor 'model.layers.2.hnormm.weight'; did you mean 'model.layers.2.hnorm" in message
    assert "model.layers.2.eh_proj.weight has shape [64, 64], expected [64, 128]" in message


def test_a_model_without_it_is_written_as_one(tmp_path: Path) -> None:
    write_checkpoint(build_model(CONFIG, parts(), RandomTensors(CONFIG, 0)), tmp_path)
    assert ModelConfig.read(tmp_path).num_nextn_predict_layers == 0
    assert not any(name.startswith("model.layers.2.") for name in load_file(tmp_path / "model.safetensors"))


def test_transformers_loads_the_directory_and_says_what_it_leaves_out(written: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(written, output_loading_info=True)
    peer, info = loaded
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert {name[: len("model.layers.2.")] for name in info["unexpected_keys"]} == {"model.layers.2."}
    with torch.no_grad():
        expected = peer(TOKENS).logits
    assert relative_l2(load_runner(str(written), selector="dsa").logits(TOKENS), expected) < 1e-5


# --- nothing of it when not asked for -------------------------------------------------------------------


def test_a_runner_neither_reads_nor_holds_it(written: Path) -> None:
    """Equal to a checkpoint that never had the layer: weights, cache, answers; and a broken layer goes unnoticed."""
    with_layer: Any = load_runner(str(written))
    without: Any = load_runner("tiny-v32")
    assert with_layer.weight_bytes == without.weight_bytes
    assert with_layer.new_state(2, 8).bytes == without.new_state(2, 8).bytes
    assert torch.equal(with_layer.logits(TOKENS), without.logits(TOKENS))
    edit(written, lambda tensors: tensors.pop("model.layers.2.eh_proj.weight"))
    assert torch.equal(load_runner(str(written)).logits(TOKENS), without.logits(TOKENS))


def test_its_answers_do_not_change_the_main_model() -> None:
    ahead, plain = model_of(), build_model(CONFIG, parts(), RandomTensors(CONFIG, 0))
    before = hidden_of(ahead)
    list(look_ahead(ahead, before, TOKENS))
    assert torch.equal(hidden_of(ahead), hidden_of(plain))
    assert list(look_ahead(plain, before, TOKENS)) == []
    assert len(ahead.layers()) == len(plain.layers()) == 2


# --- config ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["num_nextn_predict_layers", "num_mtp_layers"])
def test_both_spellings_of_the_config(key: str) -> None:
    raw = PRESETS["tiny-v3"].to_hf()
    del raw["num_nextn_predict_layers"]
    assert ModelConfig.from_hf(raw).num_nextn_predict_layers == 0
    assert ModelConfig.from_hf(raw | {key: 2}).num_nextn_predict_layers == 2
    with pytest.raises(UsageError, match="num_nextn_predict_layers is -1, it must be at least 0"):
        ModelConfig.from_hf(raw | {key: -1})


def test_the_layers_network_is_the_last_layers() -> None:
    assert CONFIG.mtp_numbers() == range(2, 3)
    assert CONFIG.mlp_type(2) == CONFIG.mlp_layer_types[-1] == "sparse"
    dense = msgspec.structs.replace(CONFIG, mlp_layer_types=("dense", "dense"))
    assert not any("experts" in name for name in disk_shapes(dense, mtp=True))
