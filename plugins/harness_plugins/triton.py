"""Kernels `triton`: every operator as a Triton kernel. Hooks only; the kernels are in `triton_kernels/`.

(Imported as `harness_plugins.triton`, beside which `import triton` still means the compiler's package.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.contract import MachineFacts, Option, Query, hookimpl


@hookimpl
def harness_options() -> Sequence[Option]:
    """The kernel set `triton`."""
    return [
        Option(
            axis="kernels",
            name="triton",
            factory=_operators,
            summary="Triton kernels for NVIDIA GPUs from sm_80 on; interpreted, and never timed, on a CPU",
            unsupported=_unsupported,
            environment=_environment,
            checked_apart="on a CPU it is interpreted, which takes minutes",
        )
    ]


def _unsupported(query: Query) -> Sequence[str]:
    reasons = []
    engine, precision, capability = query.variant.engine, query.variant.precision, query.facts.compute_capability
    if engine != "native":
        reasons.append(f"kernels triton fill the operator table of engine native, not of {engine}")
    if precision == "fp64":
        reasons.append(
            "kernels triton accumulate in FP32, and precision fp64 is for references; allowed: kernels eager"
        )
    if "triton" not in query.facts.packages:
        reasons.append("kernels triton need the package triton, which is not installed")
    if query.facts.device == "cuda" and capability is not None and capability < (8, 0):
        reasons.append(f"kernels triton need compute capability 8.0, this GPU has {capability[0]}.{capability[1]}")
    return reasons


def _environment(facts: MachineFacts) -> Mapping[str, str]:
    """Triton decides when it is first imported whether it compiles or interprets."""
    return {"TRITON_INTERPRET": "1"} if facts.device == "cpu" else {}


def _operators() -> Any:
    from harness_plugins.triton_kernels.operators import operators

    return operators()
