"""The builds of a kernel set, by target: what there is to compile."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.compile.target import Target
from harness.contract.compiling import KernelBuild
from harness.contract.operators import Operators
from harness.contract.registry import Registry
from harness.contract.slots import SLOTS
from harness.errors import UsageError


@dataclass(frozen=True)
class KernelSet:
    """A kernel set by its option's name."""

    operators: Operators

    @staticmethod
    @functools.cache
    def load(kernels: str, plugins: tuple[str, ...]) -> KernelSet:
        """The set that an option names. Raises UsageError for an unknown one."""
        return KernelSet(Registry(plugins).option("kernels", kernels).load())

    def builds(self, target: Target) -> Sequence[KernelBuild]:
        """Every build for a target; none for a set that has nothing to compile.

        Raises UsageError for two builds of one name, or one of an operator that there is not.
        """
        given = self.operators.builds(target.capability) if self.operators.builds else []
        twice = [name for name, count in Counter(build.name for build in given).items() if count > 1]
        known = {*SLOTS, *self.operators.fused}
        lost = sorted({build.operator for build in given} - known)
        if twice:
            raise UsageError(f"kernels {self.operators.name}: two builds for {target.name} are named {twice[0]!r}")
        if lost:
            raise UsageError(f"kernels {self.operators.name}: builds of no operator of the set: {', '.join(lost)}")
        return given

    def build(self, name: str, target: Target) -> KernelBuild:
        """One build by its name. Raises KeyError when there is none."""
        return {build.name: build for build in self.builds(target)}[name]
