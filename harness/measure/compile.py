"""Kernels compiled ahead of time for a target: registers, spills, shared memory, matrix instructions. No device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import msgspec

from harness.compile.builds import KernelSet
from harness.compile.cache import Cache, default_folder
from harness.compile.facts import BuildFacts
from harness.compile.pool import Compilers, compiling
from harness.compile.process import Job
from harness.compile.target import Target, target_of
from harness.contract.compiling import KernelBuild
from harness.contract.operators import Operators
from harness.measure.measurement import Measurement, Outcome
from harness.records.metrics import metric
from harness.records.record import Metric, Status


class CompileMeasurement(Measurement):
    """Every build of one operator (or of all) for one target. A build that does not compile fails the cell."""

    timed: ClassVar[bool] = False
    model: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("triton", "harness.compile.compiler")
    workload: Any

    def finish(self) -> Outcome:
        target = target_of(self.workload.target)
        builds = self._builds(target)
        if not builds:
            return Outcome(Status.UNSUPPORTED, [self._nothing(target)])
        facts = self._facts(builds, target)
        failures = [f"{one.build}: {one.failure}" for one in facts if one.failure is not None]
        documents = [_document(one) for one in facts]
        context = {**_context(facts), "builds": [one.build for one in facts]}
        if failures:
            return Outcome(Status.FAILED, failures, {}, context, documents)
        return Outcome(Status.PASSED, [], metrics_of(facts, target), context, documents)

    def _builds(self, target: Target) -> list[KernelBuild]:
        operators, wanted = self.bench.parts["kernels"], self.workload.operator
        assert isinstance(operators, Operators)
        return [build for build in KernelSet(operators).builds(target) if wanted in (None, build.operator)]

    def _nothing(self, target: Target) -> str:
        what = self.workload.operator or "any operator"
        return f"kernels {self.cell.variant.kernels} has no build of {what} to compile for {target.name}"

    def _facts(self, builds: Sequence[KernelBuild], target: Target) -> list[BuildFacts]:
        """Facts in the order of the builds: stored ones, and the others compiled now."""
        from harness.compile.compiler import key

        cache = Cache(default_folder(), self.bench.fresh)
        keys = {build.name: key(build, target) for build in builds}
        found = {build.name: cache.get(keys[build.name]) for build in builds}
        missing = [build for build in builds if found[build.name] is None]

        def done(facts: BuildFacts) -> None:
            found[facts.build] = facts
            cache.put(keys[facts.build], facts)
            ready = sum(one is not None for one in found.values())
            self.bench.progress(ready / len(builds), f"compiled {facts.build} for {target.name}")

        if missing:
            variant = self.cell.variant
            jobs = [(Job(variant.kernels, self.bench.plugins, target.name, one.name), one.operator) for one in missing]
            self.bench.shared.get(Compilers, self._compilers).facts(jobs, done)
        return [one for one in found.values() if one is not None]

    def _compilers(self, ends: ExitStack) -> Compilers:
        return ends.enter_context(compiling(self.bench.threads))


def metrics_of(facts: Sequence[BuildFacts], target: Target) -> dict[str, Metric]:
    """Exact metrics, one sample a build (matrix instructions: a build that has a matrix product)."""
    products = [one for one in facts if one.matrix_product]
    samples: dict[str, list[float]] = {
        "registers": [one.registers for one in facts],
        "spills": [one.spills for one in facts],
        "shared_memory": [one.shared_memory for one in facts],
        "shared_memory_share": [one.shared_memory / one.shared_limit for one in facts],
        "operations": [one.operations for one in facts],
        "matrix_instructions": [float(bool(one.instructions)) for one in products],
        "native_matrix_instructions": [float(target.instructions in one.instructions) for one in products],
    }
    return {name: metric(name, values) for name, values in samples.items() if values}


def _context(facts: Sequence[BuildFacts]) -> dict[str, Any]:
    """Who compiled to which PTX: facts of unlike compilers are not compared."""
    told = [one for one in facts if one.failure is None]
    return {
        "compiler": ", ".join(dict.fromkeys(one.compiler for one in told)),
        "ptx_versions": sorted({one.ptx_version for one in told}),
    }


def _document(facts: BuildFacts) -> dict[str, Any]:
    """A build as a line of the samples file, named as documents are."""
    return {"task": facts.operator, "doc_id": facts.build, "filter": "none", **msgspec.to_builtins(facts)}
