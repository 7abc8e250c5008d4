"""Kernels `scaled_mm`: torch's own block-scaled FP8 product where the hardware has it. Hooks only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.contract import Option, Query, hookimpl
from harness.contract.fp8 import BLOCK

HOPPER = (9, 0)
"""The only generation for which torch offers 1 x 128 and 128 x 128 scales (cuBLASLt of CUDA 12.9 and newer)."""
TORCH = (2, 10)
"""The first torch with `torch.nn.functional.scaled_mm`."""


@hookimpl
def harness_options() -> Sequence[Option]:
    """The kernel set `scaled_mm`."""
    return [
        Option(
            axis="kernels",
            name="scaled_mm",
            factory="harness_plugins.scaled_mm_product:operators",
            summary="torch.nn.functional.scaled_mm for the FP8 product on Hopper; all other operators eager",
            unsupported=lambda query: list(_reasons(query)),
            checked_apart="it needs a Hopper GPU",
        )
    ]


def _reasons(query: Query) -> Iterator[str]:
    facts, engine = query.facts, query.variant.engine
    if engine != "native":
        yield f"kernels scaled_mm fill the operator table of engine native, not of {engine}"
    if facts.device != "cuda":
        yield f"kernels scaled_mm need a GPU with FP8 units; the device is {facts.device}"
    elif facts.compute_capability != HOPPER:
        found = ".".join(map(str, facts.compute_capability or ())) or "unknown"
        yield f"torch's block-scaled FP8 product needs compute capability 9.0 (Hopper), this GPU has {found}"
    if _version(facts.packages.get("torch", "")) < TORCH:
        given = facts.packages.get("torch", "none")
        yield f"torch.nn.functional.scaled_mm needs torch 2.10 or newer, installed is {given}"
    if query.variant.precision.startswith("fp8"):
        yield from _unfit(query)


def _unfit(query: Query) -> Iterator[str]:
    """Sizes of products: the scales go by whole blocks of K."""
    config = query.config
    sizes = {
        name: getattr(config, name) for name in ("hidden_size", "intermediate_size", "q_lora_rank", "kv_lora_rank")
    }
    sizes["num_attention_heads * v_head_dim"] = config.num_attention_heads * config.v_head_dim
    for name, size in sizes.items():
        if size and size % BLOCK:
            yield f"torch's block-scaled FP8 product needs multiples of {BLOCK}, and {name} is {size}"


def _version(text: str) -> tuple[int, ...]:
    parts = text.split("+")[0].split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()
