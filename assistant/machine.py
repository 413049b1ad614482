"""Cores, memory and GPUs that this process may use, not beyond a container's limits; seen without importing torch."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
# Of version 2 of the control groups, and of version 1, where "no limit" is a number beyond any memory.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Gpu:
    """A graphics card that NVIDIA's driver reports; `memory` in bytes."""

    name: str
    memory: int


def cores() -> int:
    """Cores that this process may use: of its affinity, and not beyond a container's quota; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for directory in _cgroups("cpu"):
        quota, _, period = _read(directory / "cpu.max").strip().partition(" ")
        if not quota:  # version 1
            quota, period = (_read(directory / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():  # else it is "max" or -1: no limit
            allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)


def memory() -> tuple[int, int]:
    """Bytes of main memory: (in all, free for a new program), a container's limit taken into account."""
    import psutil  # not at the start of every command

    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for directory in _cgroups("memory"):
        for limit_file, used_file, cached in _MEMORY_FILES:
            limit, used = _read(directory / limit_file).strip(), _read(directory / used_file).strip()
            if limit.isdigit() and used.isdigit():
                # Files that were read and are kept in memory give way to whoever needs it.
                held = int(used) - _statistic(directory / "memory.stat", cached)
                total, free = min(total, int(limit)), min(free, max(0, int(limit) - held))
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


def _cgroups(controller: str) -> Iterator[Path]:
    """Directories of the control groups that this process is in, from its own up to the root: each may set a limit."""
    for line in _read(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree and no list of controllers. Inside a container the path may be the host's, unseen
        # here; what is mounted as the root is the container's own group then.
        root = CGROUPS / controller if controllers else CGROUPS
        here = root / path.lstrip("/")
        while here != root and here.is_relative_to(root) and ".." not in here.parts:
            yield here
            here = here.parent
        yield root


def _statistic(file: Path, name: str) -> int:
    for line in _read(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
