"""Kernels `torch_compile`: the reference's operators under `torch.compile`. Hooks only; see `torch_compiled`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from harness.contract import Option, Query, hookimpl

COMPILERS = ("g++", "clang++", "c++")
"""What torch's inductor looks for to make machine code for a CPU."""


@hookimpl
def harness_options() -> Sequence[Option]:
    """The kernel set `torch_compile`."""
    return [
        Option(
            axis="kernels",
            name="torch_compile",
            factory="harness_plugins.torch_compiled:operators",
            summary="eager's formulas under torch.compile; experts, top-k and FP8 stay eager",
            unsupported=_unsupported,
            checked_apart="making machine code for every size takes minutes",
        )
    ]


def _unsupported(query: Query) -> Sequence[str]:
    reasons = []
    engine, device, capability = query.variant.engine, query.facts.device, query.facts.compute_capability
    if engine != "native":
        reasons.append(f"kernels torch_compile fill the operator table of engine native, not of {engine}")
    if query.facts.system != "Linux":
        reasons.append(f"kernels torch_compile are tried on Linux alone, not on {query.facts.system}")
    if device == "cpu" and not any(map(shutil.which, COMPILERS)):
        reasons.append(f"kernels torch_compile need a C++ compiler on a CPU; none of {', '.join(COMPILERS)} is there")
    if device == "cuda" and "triton" not in query.facts.packages:
        reasons.append("kernels torch_compile need the package triton on a GPU, which is not installed")
    if device == "cuda" and capability is not None and capability < (7, 0):
        reasons.append(
            f"kernels torch_compile need compute capability 7.0, this GPU has {capability[0]}.{capability[1]}"
        )
    return reasons
