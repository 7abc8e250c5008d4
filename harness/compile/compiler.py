"""One kernel build made machine code for one target, without a device, through Triton's ahead-of-time interface."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton

from harness.compile import facts
from harness.compile.cache import key_of
from harness.compile.facts import BuildFacts
from harness.compile.target import Target
from harness.contract.compiling import KernelBuild

WARP = 32
"""Threads of a warp on every NVIDIA GPU."""


def compiler() -> str:
    """Who compiles, such as `triton 3.6.0`: facts of unlike compilers are not compared."""
    return f"triton {triton.__version__}"


def key(build: KernelBuild, target: Target) -> str:
    """Key of `Cache`: kernel source with all jitted functions that it calls, and every choice of the build."""
    return key_of(
        {
            "kernel": build.kernel.cache_key,
            "signature": sorted(build.signature.items()),
            "constants": sorted((name, repr(value)) for name, value in build.constants.items()),
            "divisible_by_16": sorted(build.divisible_by_16),
            "options": sorted(_options(build).items()),
            "name": (build.name, build.operator, build.matrix_product),
            "target": target,
            "compiler": compiler(),
        }
    )


def compile_build(build: KernelBuild, target: Target) -> BuildFacts:
    """Compile and look at what came out; an error of the compiler is a fact like others (`failure`)."""
    try:
        compiled = _compiled(build, target)
        return _facts(build, target, compiled)
    except Exception as error:  # whatever a kernel can do to a compiler is told as that kernel's failure
        return BuildFacts(build.name, build.operator, target.name, failure=_one_line(error), compiler=compiler())


def _compiled(build: KernelBuild, target: Target) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    major, minor = target.capability
    source = ASTSource(
        build.kernel,
        signature=_signature(build),
        constexprs=dict(build.constants),
        attrs={(place,): [["tt.divisibility", 16]] for place in _divisible(build)},
    )
    return triton.compile(source, target=GPUTarget("cuda", 10 * major + minor, WARP), options=_options(build))


def _options(build: KernelBuild) -> dict[str, int]:
    return {"num_warps": build.num_warps, "num_stages": build.num_stages}


def _signature(build: KernelBuild) -> dict[str, str]:
    """Types in the order of the kernel's arguments. Raises ValueError for one that is missing, unknown or both."""
    arguments = list(build.kernel.arg_names)
    both = build.signature.keys() & build.constants.keys()
    if both:
        raise ValueError(f"both run-time and constant: {', '.join(sorted(both))}")
    given = {**build.signature, **dict.fromkeys(build.constants, "constexpr")}
    missing, unknown = [name for name in arguments if name not in given], sorted(given.keys() - set(arguments))
    if missing or unknown:
        raise ValueError(f"the build does not fit its kernel: missing {missing}, unknown {unknown}")
    return {name: given[name] for name in arguments}


def _divisible(build: KernelBuild) -> list[int]:
    """Places of the arguments that are multiples of 16. Raises ValueError for a name that is no run-time argument."""
    wrong = [name for name in build.divisible_by_16 if name not in build.signature]
    if wrong:
        raise ValueError(f"divisible_by_16 names what is no run-time argument: {', '.join(wrong)}")
    return sorted(build.kernel.arg_names.index(name) for name in build.divisible_by_16)


def _facts(build: KernelBuild, target: Target, compiled: Any) -> BuildFacts:
    ptx = compiled.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        code = _cuobjdump(cubin)
        usage = facts.usage(code)
    return BuildFacts(
        build=build.name,
        operator=build.operator,
        target=target.name,
        registers=usage["REG"],
        spills=usage["STACK"] + usage["LOCAL"],
        local_accesses=facts.local_accesses(code),
        shared_memory=int(compiled.metadata.shared),
        shared_limit=target.shared_memory,
        matrix_product=build.matrix_product,
        instructions=facts.matrix_instructions(ptx, code),
        operations=facts.operations(code),
        ptx_version=facts.ptx_version(ptx),
        compiler=compiler(),
    )


def _cuobjdump(cubin: Path) -> str:
    """Resources and machine code, by the tool that Triton's package carries. Raises RuntimeError when it complains."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "-res-usage", "-sass", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cuobjdump fails: {done.stderr.strip()[:200]}")
    return done.stdout


def _one_line(error: Exception) -> str:
    """Kind and last telling line of a compiler's error: the first ones quote source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^")]
    told = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "")
    return f"{type(error).__name__}: {told}"[:300].rstrip(": ")
