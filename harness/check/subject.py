"""What is under check: one variant of one tiny model, beside the FP64 reference of the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
import torch
from torch import Tensor

from harness.check.tolerances import QUANTISED_ALIKE, Tolerance, for_logits, for_ways
from harness.check.verdict import NotApplicableError, require_close
from harness.contract.cache import CacheFormat
from harness.contract.config import ModelConfig
from harness.contract.facts import MachineFacts
from harness.contract.options import Query
from harness.contract.precision import Precision
from harness.contract.registry import Registry
from harness.contract.runner import EngineRequest, Runner
from harness.model.presets import PRESETS
from harness.suite.variant import Variant

REFERENCE = {
    "engine": "native",
    "form": "mha",
    "precision": "fp64",
    "cache": "latent",
    "kernels": "eager",
    "decoding": "plain",
}
"""The oracle, under the subject's own selector: the selector decides what is computed, all other axes only how."""


@dataclass
class Workbench:
    """The registry and machine that all subjects share, and the references that have been built."""

    registry: Registry
    facts: MachineFacts
    seed: int = 0
    references: dict[tuple[str, str], Runner] = field(default_factory=dict)

    @property
    def primary_config(self) -> ModelConfig:
        """Dimensions for checks that need some and no weights: those of the tiny V3.2."""
        return PRESETS["tiny-v32"]

    def unsupported(self, variant: Variant, config: ModelConfig) -> list[str]:
        """Every reason why the variant of this model cannot run here."""
        return self.registry.unsupported(Query(variant, config, self.facts))

    def build(
        self, variant: Variant, model: str, config: ModelConfig, changes: Mapping[str, object] | None = None
    ) -> Runner:
        """A runner; `changes` replaces loaded parts by axis."""
        parts = self.registry.load(variant) | dict(changes or {})
        engine = self.registry.option("engine", variant.engine).load()
        runner: Runner = engine(EngineRequest(model, config, variant, parts, self.facts.device, self.seed))
        return runner

    def reference(self, selector: str, model: str, config: ModelConfig) -> Runner:
        """The FP64 reference; raises NotApplicableError where the selector cannot run in it."""
        variant = Variant(**{**REFERENCE, "selector": selector})
        reasons = self.unsupported(variant, config)
        if reasons:
            raise NotApplicableError(f"no FP64 reference for selector {selector}: {'; '.join(reasons)}")
        if (selector, model) not in self.references:
            self.references[selector, model] = self.build(variant, model, config)
        return self.references[selector, model]


@dataclass(frozen=True)
class Subject:
    """One variant of one tiny preset."""

    bench: Workbench
    variant: Variant
    model: str
    config: ModelConfig

    @cached_property
    def runner(self) -> Runner:
        """The variant itself."""
        return self.bench.build(self.variant, self.model, self.config)

    @property
    def reference(self) -> Runner:
        """The FP64 reference with the same selector."""
        return self.bench.reference(self.variant.selector, self.model, self.config)

    def quantised_alike(self) -> tuple[Runner, Runner]:
        """The variant with FP32 activations, and the FP64 reference that quantises what it quantises.

        Raises NotApplicableError when that is nothing, or cannot be known.
        """
        precision = self.parts["precision"]
        if self.variant.engine != "native" or not isinstance(precision, Precision):
            raise NotApplicableError(f"engine {self.variant.engine} quantises by itself, if at all")
        if not self.lossy_cache and not precision.slots:
            raise NotApplicableError("this variant quantises nothing")
        exact = self.variant.with_options({axis: REFERENCE[axis] for axis in ("form", "kernels", "decoding")})
        runners = [
            self.bench.build(variant, self.model, self.config, {"precision": precision.in_dtype(dtype)})
            for variant, dtype in ((self.variant, torch.float32), (exact, torch.float64))
        ]
        return runners[0], runners[1]

    def beside_reference(self) -> tuple[Runner, Runner, Tolerance]:
        """The variant, the nearest FP64 reference that there is, and how far apart they may be."""
        try:
            return (*self.quantised_alike(), QUANTISED_ALIKE)
        except NotApplicableError:
            return self.runner, self.reference, for_logits(self.variant, self.lossy_cache)

    def with_parts(self, changes: Mapping[str, object]) -> Runner:
        """The variant with some loaded parts replaced by axis."""
        return self.bench.build(self.variant, self.model, self.config, changes)

    def first_layer(self) -> Runner:
        """The variant of the first layer alone: what a deeper model hides, one layer shows."""
        kinds = self.config.mlp_layer_types[:1]
        shallow = msgspec.structs.replace(self.config, num_hidden_layers=1, mlp_layer_types=kinds)
        return self.bench.build(self.variant, self.model, shallow)

    def tokens(self, batch: int, length: int, seed: int = 0) -> Tensor:
        """Seeded token ids, int64 [batch, length]; a longer draw starts with the same columns."""
        generator = torch.Generator().manual_seed(1000 * batch + seed)
        return torch.randint(self.config.vocab_size, (length, batch), generator=generator).T.contiguous()

    @cached_property
    def parts(self) -> dict[str, object]:
        """The loaded object of every option."""
        return self.bench.registry.load(self.variant)

    @cached_property
    def lossy_cache(self) -> bool:
        """Whether the cache rounds what it stores."""
        cache, precision = self.parts["cache"], self.parts["precision"]
        if not isinstance(cache, CacheFormat) or not isinstance(precision, Precision):
            return False
        return cache.is_lossy(self.config, precision.dtype)

    def near_reference(self, given: Tensor, wanted: Tensor, what: str) -> None:
        """Require that an answer is as near the reference's, which quantises nothing, as the variant can be."""
        require_close(given, wanted, for_logits(self.variant, self.lossy_cache), what)

    @cached_property
    def allowed(self) -> Tolerance:
        """How far two ways through the variant may be apart."""
        return for_ways(self.variant, self.lossy_cache)

    def same(self, given: Tensor, wanted: Tensor, what: str) -> None:
        """Require that two answers to one question agree: another order of sums, nothing else."""
        require_close(given, wanted, self.allowed, what)
