"""FP8 checkpoints run as they are, BF16 ones are quantised by the same code, faults in either show."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness import load_runner
from harness.contract.fp8_tensors import calc_diff, quantise_blocks
from harness.contract.registry import Registry
from harness.contract.span import Span
from harness.errors import UsageError
from harness.model.build import build_model
from harness.model.checkpoint import open_tensors
from harness.model.layers import Parts
from harness.model.mtp import look_ahead
from harness.model.presets import PRESETS, resolve
from harness.model.runner import NativeRunner
from tests.fp8.checkpoints import edit_scales, quantised_by_loops, write_fp8
from tests.support.checkpoints import random_tokens

TOKENS = random_tokens(2, 40)

LADDER = 1e-2
"""calc_diff of logits: one FP8 product is allowed 1e-3, and five in a row make a layer, of which there are two."""

SELECTORS = {"deepseek_v2": "dense", "deepseek_v3": "dense", "deepseek_v32": "dsa"}


def parts_of(**options: str) -> Parts:
    registry = Registry(entry_points=False)
    loaded: dict[str, Any] = registry.load(registry.variant({"engine": "native", **options}))
    chosen = {"form": "form", "selector": "selector", "precision": "precision", "cache": "cache", "ops": "kernels"}
    return Parts(**{field: loaded[axis] for field, axis in chosen.items()})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    kinds = ("deepseek_v2", "deepseek_v3", "deepseek_v32")
    return {kind: write_fp8(tmp_path_factory.mktemp(kind), kind) for kind in kinds}


def transformers_logits(directory: Path, quantise: bool = False) -> Tensor:
    """In FP32; with `quantise` every input of a projection is rounded to E4M3 in tiles of 128, by a few own lines."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        plain = ("lm_head", "weights_proj", "gate", "kv_b_proj")  # the last is absorbed, and multiplied in BF16
        if quantise and isinstance(module, torch.nn.Linear) and name.split(".")[-1] not in plain:
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]), *inputs[1:]))
    with torch.inference_mode():
        return model(TOKENS).logits


def rounded(x: Tensor) -> Tensor:
    tiles = []
    for tile in x.split(128, -1):
        scale = tile.abs().amax(-1, keepdim=True) / 448
        tiles.append((tile / scale).to(torch.float8_e4m3fn).float() * scale)
    return torch.cat(tiles, -1)


def median_difference(given_BTV: Tensor, wanted_BTV: Tensor) -> float:
    pairs = zip(given_BTV.flatten(0, 1), wanted_BTV.flatten(0, 1), strict=True)
    return float(torch.tensor([calc_diff(given, wanted) for given, wanted in pairs]).median())


@pytest.mark.parametrize(("kind", "selector"), SELECTORS.items())
def test_logits_are_near_those_of_transformers_on_the_dequantised_weights(
    kind: str, selector: str, pairs: dict[str, tuple[Path, Path]]
) -> None:
    quantised, plain = pairs[kind]
    wanted = transformers_logits(plain)
    given = load_runner(str(quantised), precision="fp8", selector=selector).logits(TOKENS)
    seen = 8 if selector == "dsa" else 40  # behind them the indexer may choose other keys
    assert 1e-4 < median_difference(given[:, :seen], wanted[:, :seen]) <= LADDER
    dequantised = load_runner(str(quantised), precision="fp32", selector=selector).logits(TOKENS)
    assert median_difference(dequantised, wanted) < 1e-9


@pytest.mark.parametrize(("kind", "selector"), SELECTORS.items())
def test_logits_are_those_of_transformers_with_rounded_activations(kind: str, selector: str, tmp_path: Path) -> None:
    """Dense layers, whose every product transformers lets one look into: the two models are one, but for FP32 sums."""
    quantised, plain = write_fp8(tmp_path, kind, first_k_dense_replace=2)
    parts = parts_of(precision="fp8", selector=selector)
    parts = replace(parts, precision=parts.precision.in_dtype(torch.float32))
    config = resolve(str(quantised))
    given = NativeRunner(build_model(config, parts, open_tensors(str(quantised), config))).logits(TOKENS)
    assert median_difference(given, transformers_logits(plain, quantise=True)) < 1e-6
    assert median_difference(given, transformers_logits(plain)) > 1e-4


@pytest.mark.parametrize("fault", ["dropped", "turned"])
def test_a_wrong_scale_shows(fault: str, tmp_path: Path) -> None:
    """Scales that are missing, or read across instead of down, are far outside of what is allowed."""
    quantised, _plain = write_fp8(tmp_path, "deepseek_v3")

    def change(name: str, scales: Tensor) -> Tensor:
        if fault == "dropped":
            return torch.full_like(scales, float(scales.mean()))
        return scales.T.reshape(scales.shape)

    def spread(name: str, scales: Tensor) -> Tensor:
        """Blocks of unlike size, as trained weights have."""
        return scales * 2.0 ** torch.arange(scales.numel()).view(scales.shape)

    edit_scales(quantised, spread)
    sound = load_runner(str(quantised), precision="fp8").logits(TOKENS)
    edit_scales(quantised, change)
    assert calc_diff(load_runner(str(quantised), precision="fp8").logits(TOKENS), sound) > 3 * LADDER


def test_stored_weights_are_kept_bit_by_bit(pairs: dict[str, tuple[Path, Path]]) -> None:
    quantised, _ = pairs["deepseek_v32"]
    runner: Any = load_runner(str(quantised), precision="fp8", selector="dsa")
    stored, kept = load_file(quantised / "model.safetensors"), runner.model.state_dict()
    experts = "model.layers.1.mlp.experts"
    for name in ("model.layers.0.self_attn.o_proj.weight", "model.layers.1.self_attn.indexer.wq_b.weight"):
        assert torch.equal(kept[name].view(torch.uint8), stored[name].view(torch.uint8))
        assert torch.equal(kept[f"{name}_scale_inv"], stored[f"{name}_scale_inv"])
    up = stored[f"{experts}.3.up_proj.weight"]
    assert torch.equal(kept[f"{experts}.gate_up_proj"][3, 136:].view(torch.uint8), up.view(torch.uint8))
    scales = stored[f"{experts}.3.up_proj.weight_scale_inv"]
    assert torch.equal(kept[f"{experts}.gate_up_proj_scale_inv"][3, 1], scales)


def test_what_stays_wide(pairs: dict[str, tuple[Path, Path]]) -> None:
    """Embedding, head, router, norms and the indexer's head weights, as in the V3 report; everything else is E4M3."""
    runner: Any = load_runner(str(pairs["deepseek_v32"][0]), precision="fp8", selector="dsa")
    kinds: dict[torch.dtype, set[str]] = {}
    for name, tensor in runner.model.state_dict().items():
        kinds.setdefault(tensor.dtype, set()).add(name.removeprefix("model.layers.1."))
    assert {"model.embed_tokens.weight", "lm_head.weight"} == kinds[torch.bfloat16]
    wide = {name for name in kinds[torch.float32] if not name.startswith("model.") and "scale_inv" not in name}
    assert {name.split(".")[-2] for name in wide} == {
        "input_layernorm",
        "post_attention_layernorm",
        "q_a_layernorm",
        "kv_a_layernorm",
        "k_norm",
        "weights_proj",
        "gate",
    }
    assert "self_attn.indexer.wk.weight" in kinds[torch.float8_e4m3fn]


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("shape", [(256, 384), (130, 200), (64, 40)])
def test_blocks_are_those_of_an_independent_writer(shape: tuple[int, int], power_of_two: bool) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    values, scales, meant = quantised_by_loops(weight, 128, power_of_two)
    given = quantise_blocks(weight, power_of_two)
    assert torch.equal(given.values.view(torch.uint8), values.view(torch.uint8))
    assert torch.equal(given.scales, scales)
    assert torch.equal(given.dense(), meant)


def test_a_plain_checkpoint_is_quantised_on_load(pairs: dict[str, tuple[Path, Path]]) -> None:
    """Quantising the dequantised numbers finds the same scales, so the two models are one."""
    quantised, plain = pairs["deepseek_v3"]
    given = load_runner(str(plain), precision="fp8").logits(TOKENS)
    wanted = load_runner(str(quantised), precision="fp8").logits(TOKENS)
    assert calc_diff(given, wanted) < 1e-4


def test_scales_are_made_powers_of_two_only_where_they_must_be(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.o_proj"
    for power_of_two in (False, True):
        quantised, _ = write_fp8(tmp_path / str(power_of_two), "deepseek_v3", power_of_two=power_of_two)
        stored = load_file(quantised / "model.safetensors")[f"{name}.weight_scale_inv"]
        runners: dict[str, Any] = {kind: load_runner(str(quantised), precision=kind) for kind in ("fp8", "fp8_ue8m0")}
        scales = {kind: runner.model.state_dict()[f"{name}.weight_scale_inv"] for kind, runner in runners.items()}
        assert torch.equal(scales["fp8"], stored)
        assert (torch.frexp(scales["fp8_ue8m0"]).mantissa == 0.5).all()
        assert torch.equal(scales["fp8_ue8m0"], stored) == power_of_two


def test_other_blocks_are_refused(tmp_path: Path) -> None:
    quantised, _ = write_fp8(tmp_path, "deepseek_v3", block=32)
    with pytest.raises(UsageError, match=r"takes FP8 weights in blocks of 128 x 128, this checkpoint has 32 x 32"):
        load_runner(str(quantised), precision="fp8")
    assert load_runner(str(quantised), precision="bf16").logits(TOKENS).isfinite().all()


def test_weights_take_half_the_bytes(pairs: dict[str, tuple[Path, Path]]) -> None:
    plain = str(pairs["deepseek_v3"][1])
    half, full = (load_runner(plain, precision=precision).weight_bytes for precision in ("fp8", "bf16"))
    assert half is not None
    assert full is not None
    assert half < 0.65 * full  # embedding and head stay


def test_prediction_layers_are_quantised_too() -> None:
    config = PRESETS["tiny-v32-mtp"]
    tokens = random_tokens(1, 24, vocab_size=config.vocab_size)
    logits = {}
    for precision in ("fp32", "fp8"):
        parts = parts_of(precision=precision, selector="dsa")
        model = build_model(config, parts, open_tensors("tiny-v32-mtp", config, mtp=True))
        with torch.inference_mode():
            hidden = model.hidden(tokens, Span.fresh(*tokens.shape))
            logits[precision] = next(look_ahead(model, hidden, tokens))
    layer = model.model.layers[config.num_hidden_layers]
    assert layer.get_submodule("self_attn.o_proj").weight.dtype == torch.float8_e4m3fn
    error = (logits["fp8"] - logits["fp32"]).norm(dim=-1) / logits["fp32"].norm(dim=-1)
    assert 1e-3 < float(error.median()) < 0.3
