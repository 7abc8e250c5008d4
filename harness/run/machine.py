"""Facts about this machine, its software and its state, torch-free, so that plan and doctor answer at once."""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from harness.contract.facts import MachineFacts

PACKAGES = (
    "deepseek-harness",
    "torch",
    "triton",
    "transformers",
    "lm_eval",
    "safetensors",
    "tokenizers",
    "numpy",
    "vllm",
    "sglang",
    "flash-mla",
    "flashinfer-python",
    "deep-gemm",
)
"""Distributions whose versions decide what runs, or how fast."""

CGROUP = Path("/sys/fs/cgroup")


def collect(device: str) -> MachineFacts:
    """The facts that options judge by. The GPU is looked at only when `device` is not `cpu`."""
    gpu = gpu_facts() if device != "cpu" else {}
    return MachineFacts(
        system=platform.system(),
        architecture=platform.machine(),
        cpu_model=cpu_model(),
        cpu_count=cpu_count(),
        memory_bytes=memory_bytes(),
        device=device,
        packages=package_versions(),
        **gpu,
    )


def run_context(facts: MachineFacts, root: Path) -> dict[str, Any]:
    """What is stored with every record: machine, software, git state and how busy the machine is."""
    return {
        "machine": {key: value for key, value in msgspec.to_builtins(facts).items() if key != "packages"},
        "versions": {"python": platform.python_version(), **facts.packages},
        "git": git_state(root),
        "cpu_mhz": cpu_mhz(),
        "load_average": load_average(),
    }


def cpu_model() -> str:
    """Such as `AMD EPYC 9754`; the architecture where the kernel does not tell."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_mhz() -> float | None:
    """Present clock of the first processor."""
    text = _cpuinfo("cpu MHz")
    return float(text) if text else None


def cpu_count() -> int:
    """Processors that this process may use: its affinity, within the control group's quota."""
    affinity = len(processors()) or os.cpu_count() or 1
    quota = _cpu_quota()
    return min(affinity, max(1, math.ceil(quota))) if quota else affinity


def processors() -> list[int]:
    """Numbers of the processors that this process may run on; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, within the control group's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_cgroup_limits()])


def available_memory_bytes(device: str) -> int:
    """Memory that is free for workers now: the first GPU's, or the machine's within the control group's limit."""
    if device == "cuda":
        text = _output(["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]) or ""
        first = text.splitlines()[0].strip() if text else ""
        return int(first) * 2**20 if first.isdigit() else 0
    import psutil

    free = int(psutil.virtual_memory().available)
    return min([free, *_cgroup_limits()])


def load_average() -> list[float]:
    """Runnable processes over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def package_versions() -> dict[str, str]:
    """Installed version of every distribution in `PACKAGES` that is there."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(root: Path) -> dict[str, Any]:
    """Commit of the checkout that runs, and whether tracked files differ from it; empty outside a checkout."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return {}
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    if commit is None:
        return {}
    # Without locks: a run that is killed here would leave the repository's index locked.
    status = ["git", "--no-optional-locks", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]
    changes = _output(status)
    return {"commit": commit, "dirty": bool(changes)}


def gpu_facts() -> dict[str, Any]:
    """Name, memory and compute capability of the first GPU, through nvidia-smi; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return {}
    text = _output(["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"])
    try:
        name, mebibytes, capability = (part.strip() for part in (text or "").splitlines()[0].split(","))
        major, minor = (int(part) for part in capability.split("."))
        return {
            "gpu_name": name,
            "gpu_memory_bytes": int(mebibytes) * 2**20,
            "compute_capability": (major, minor),
        }
    except (IndexError, ValueError):
        return {}


# --- out-of-memory kills ----------------------------------------------------------------------------


def oom_kills() -> dict[str, int]:
    """Counts of kernel out-of-memory kills, by the file that tells them; compare before and after."""
    counts = {}
    for path in [Path("/proc/vmstat"), *(group / "memory.events" for group in _own_cgroups())]:
        for line in _read(path).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                counts[str(path)] = int(value)
    return counts


def oom_evidence(before: dict[str, int]) -> str | None:
    """Which count has grown since `before`; None when nothing says that the kernel killed for memory."""
    return next(
        (f"oom_kill in {path} grew" for path, count in oom_kills().items() if count > before.get(path, 0)), None
    )


# --- reading the kernel's files ---------------------------------------------------------------------


def _own_cgroups() -> list[Path]:
    """This process's control groups: version 2, and the memory controller of version 1."""
    groups = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            groups += [CGROUP / path.strip("/"), CGROUP]
        elif "memory" in controllers.split(","):
            groups += [CGROUP / "memory" / path.strip("/"), CGROUP / "memory"]
    return groups


def _cgroup_limits() -> list[int]:
    files = [group / name for group in _own_cgroups() for name in ("memory.max", "memory.limit_in_bytes")]
    return [int(text) for text in (_read(file).strip() for file in files) if text.isdigit()]


def _cpu_quota() -> float | None:
    for group in _own_cgroups():
        quota, _, period = _read(group / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            return int(quota) / int(period)
    return None


def _cpuinfo(key: str) -> str | None:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _output(command: list[str]) -> str | None:
    """What a command prints, or None when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
