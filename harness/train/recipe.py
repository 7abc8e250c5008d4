"""What a recipe file may say: a model's shape and the stages that train it. Unknown keys and wrong types are errors.

The stages are those that DeepSeek-V3.2 was made in (V3.2-Exp report, section 2.2): language modelling with dense
attention, then the indexer alone learns to imitate that attention, then both go on with sparse attention.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from harness.contract.config import ModelConfig
from harness.errors import UsageError
from harness.suite.document import Document, read_document
from harness.suite.schema import Count, Positive, Strict
from harness.suite.validate import convert
from harness.train.tokenizer import BOS_ID, EOS_ID, PAD_ID

Rate = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

ARCHITECTURE = "DeepseekV32ForCausalLM"


class Shape(Strict, frozen=True):
    """The model's dimensions under their Hugging Face names."""

    vocab_size: Annotated[int, Meta(ge=512)]
    """Tokens of the tokenizer that is learned from the training text; 259 of them are bytes and special tokens."""

    hidden_size: Positive
    intermediate_size: Positive
    moe_intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    q_lora_rank: Positive
    kv_lora_rank: Positive
    qk_nope_head_dim: Positive
    qk_rope_head_dim: Positive
    v_head_dim: Positive
    n_routed_experts: Positive
    num_experts_per_tok: Positive
    n_shared_experts: Positive
    index_topk: Positive
    index_n_heads: Positive
    index_head_dim: Positive
    max_position_embeddings: Positive
    first_k_dense_replace: Count = 1
    num_nextn_predict_layers: Count = 0
    n_group: Positive = 1
    topk_group: Positive = 1
    routed_scaling_factor: Rate = 1.0
    rope_theta: Rate = 10_000.0
    rms_norm_eps: Rate = 1e-6
    initializer_range: Rate = 0.02


class Documents(Strict, frozen=True):
    """Facts and questions in the training documents of a stage (`harness.retrieval`)."""

    facts: Positive
    """Most facts in one document."""
    share: tuple[Share, Share] = (0.1, 0.5)
    """Least and most share of a document's tokens that is facts and questions; the rest is real text."""
    chains: Share = 0.0
    """Share of documents whose facts name each other."""
    alike: Share = 0.0
    """Share of documents whose values begin alike, so that only its name tells how a value goes on."""
    plain: Share = 0.0
    """Share of sequences that are text alone."""


class Stage(Strict, frozen=True):
    """Steps of one kind, at one batch shape, with a cosine learning rate of its own."""

    kind: Literal["dense", "indexer", "sparse"]
    """`dense`: language-model loss, attention to every key. `indexer`: only the indexer learns, from the dense
    attention. `sparse`: attention to the selected keys; the model learns from the language-model loss, the indexer
    from the attention over the selected keys."""
    steps: Positive
    batch: Positive
    """Sequences per step."""
    length: Positive
    """Tokens per sequence."""
    learning_rate: Rate
    final_learning_rate: Rate
    warmup: Count = 100
    """Steps of linear growth from zero to `learning_rate`."""
    documents: Documents | None = None
    """What the text is mixed with; None is text alone."""
    mtp_weight: Share = 0.0
    """Weight of the multi-token-prediction loss, lambda of the DeepSeek-V3 report, section 2.2."""


class Optimizer(Strict, frozen=True):
    """AdamW (arXiv 1711.05101) and gradient clipping."""

    beta1: Share = 0.9
    beta2: Share = 0.95
    weight_decay: Annotated[float, Meta(ge=0)] = 0.1
    """For matrices alone."""
    clip: Rate = 1.0
    """Largest norm of the gradient."""


class Balance(Strict, frozen=True):
    """How routed experts are kept evenly used (DeepSeek-V3 report, section 2.1.2)."""

    bias_speed: Annotated[float, Meta(ge=0)] = 0.001
    """Step of the correction bias: down for an expert above the mean load, up for one below."""
    sequence_loss: Annotated[float, Meta(ge=0)] = 0.0001
    """Weight of the sequence-wise balance loss."""


class Recipe(Strict, frozen=True):
    """A recipe file."""

    description: str
    output: str
    """Directory of the checkpoint, relative to the recipe file."""
    model: Shape
    stages: Annotated[list[Stage], Meta(min_length=1)]
    optimizer: Optimizer = Optimizer()
    balance: Balance = Balance()
    seed: int = 0
    threads: Positive = 1
    answer_weight: Annotated[float, Meta(ge=1)] = 4.0
    """What a token of an answer counts in the loss; a token of text counts 1."""
    bos_share: Share = 0.5
    """Share of training sequences that begin with bos, as documents without context do at evaluation."""
    save_every: Positive = 200
    """Steps between two saved states; being stopped costs at most the steps since the last one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the stored weights; training itself is in float32."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe and where it came from."""

    recipe: Recipe
    path: Path
    sha256: str
    """Of the checked content, so that comments and key order do not count."""

    @property
    def output(self) -> Path:
        """The checkpoint's directory."""
        return (self.path.parent / self.recipe.output).resolve()


def load_recipe(path: Path | str, seed: int | None = None) -> LoadedRecipe:
    """Read and check a recipe, with another seed if one is given.

    Raises UsageError naming file, line and key of what is wrong.
    """
    file = Path(path)
    document = read_document(file)
    recipe = convert(document, Recipe)
    if seed is not None:
        recipe = msgspec.structs.replace(recipe, seed=seed)
    for position, stage in enumerate(recipe.stages):
        maximum = recipe.model.max_position_embeddings
        if stage.length >= maximum:
            raise UsageError(
                f"length {stage.length} does not fit; allowed: less than max_position_embeddings, {maximum}",
                document.where("stages", position, "length"),
            )
        if stage.documents is not None and stage.documents.share[0] > stage.documents.share[1]:
            least, most = stage.documents.share
            raise UsageError(
                f"share is [{least}, {most}]; allowed: the least share first",
                document.where("stages", position, "documents", "share"),
            )
    if recipe.model.n_routed_experts % recipe.model.n_group:
        raise UsageError(
            f"n_routed_experts {recipe.model.n_routed_experts} is not a multiple of n_group {recipe.model.n_group}",
            document.where("model", "n_routed_experts"),
        )
    if recipe.model.num_experts_per_tok > recipe.model.n_routed_experts:
        raise UsageError(
            f"num_experts_per_tok is {recipe.model.num_experts_per_tok}; allowed: at most n_routed_experts, "
            f"{recipe.model.n_routed_experts}",
            document.where("model", "num_experts_per_tok"),
        )
    _refuse_mtp_without_use(recipe, document)
    content = msgspec.json.encode(recipe, order="deterministic")
    return LoadedRecipe(recipe, file, hashlib.sha256(content).hexdigest())


def past_sha256(recipe: Recipe, stage: int) -> str:
    """Of everything in a recipe that decides the weights up to the end of that stage."""
    past = msgspec.structs.replace(
        recipe, stages=recipe.stages[: stage + 1], description="", output="", save_every=1, dtype="float32"
    )
    return hashlib.sha256(msgspec.json.encode(past, order="deterministic")).hexdigest()


def _refuse_mtp_without_use(recipe: Recipe, document: Document) -> None:
    """A weight of the multi-token-prediction loss where there is no such loss would be passed over in silence."""
    for position, stage in enumerate(recipe.stages):
        reason = "an indexer stage has no language loss" if stage.kind == "indexer" else ""
        if not recipe.model.num_nextn_predict_layers:
            reason = "the model's num_nextn_predict_layers is 0"
        if stage.mtp_weight and reason:
            where = document.where("stages", position, "mtp_weight")
            raise UsageError(f"mtp_weight is {stage.mtp_weight}, but {reason}; allowed: 0", where)


def hf_config(recipe: Recipe) -> dict[str, Any]:
    """The content of `config.json`: what transformers needs to build the same model."""
    shape = msgspec.structs.asdict(recipe.model)
    theta = shape.pop("rope_theta")
    dense = min(recipe.model.first_k_dense_replace, recipe.model.num_hidden_layers)
    sparse = recipe.model.num_hidden_layers - dense
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "deepseek_v32",
        **shape,
        "num_key_value_heads": recipe.model.num_attention_heads,
        "head_dim": recipe.model.qk_rope_head_dim,
        "qk_head_dim": recipe.model.qk_nope_head_dim + recipe.model.qk_rope_head_dim,
        "mlp_layer_types": ["dense"] * dense + ["sparse"] * sparse,
        "layer_types": ["indexed_attention"] * recipe.model.num_hidden_layers,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "norm_topk_prob": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "dtype": recipe.dtype,
        "use_cache": True,
    }


def model_config(recipe: Recipe) -> ModelConfig:
    """The same for the native model."""
    return ModelConfig.from_hf(hf_config(recipe), "the recipe's model")
