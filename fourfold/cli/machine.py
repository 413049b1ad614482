"""What this machine has: cores, memory, GPUs, installed packages; seen without importing torch."""

import importlib.metadata
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """A graphics card that NVIDIA's driver reports; `memory` in bytes."""

    name: str
    memory: int


@dataclass(frozen=True)
class Unmet:
    """A requirement of fourfold that is not met.

    Args:
        requirement: as `pip install` takes it.
        installed: the version that is here, None for none.
    """

    requirement: str
    installed: str | None


def cores() -> int:
    """Cores that this process may use: of its affinity, and not beyond a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        allowed = min(allowed, max(1, int(quota[0]) // int(quota[1])))
    return allowed


def busy_cores() -> float:
    """How many cores were at work in the last minute, by the system's load average."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def memory() -> tuple[int, int]:
    """Bytes of main memory: (in all, free for a new program), a container's limit taken into account."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        total, free = min(total, int(limit)), min(free, max(0, int(limit) - int(used)))
    return total, free


def gpus() -> list[Gpu]:
    """NVIDIA's cards, as its own tool lists them; none where that tool is missing or does not answer."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in said.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if mebibytes.strip().isdigit():
            found.append(Gpu(name.strip(), int(mebibytes) * 2**20))
    return found


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for; None for a build without CUDA, or no torch."""
    try:
        written = Path(str(importlib.metadata.distribution("torch").locate_file("torch/version.py")))
    except importlib.metadata.PackageNotFoundError:
        return None
    match = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", _read(written), re.MULTILINE)
    return match[1] if match else None


def unmet_requirements(extra: str = "") -> list[Unmet]:
    """Requirements of fourfold, or of one of its extras, that the installed packages do not meet."""
    found = []
    for line in importlib.metadata.requires("fourfold") or []:
        requirement = Requirement(line)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not wanted or (extra and requirement.marker is None):
            continue
        installed = version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            found.append(Unmet(f"{requirement.name}{requirement.specifier}", installed))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
