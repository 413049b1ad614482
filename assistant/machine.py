"""Cores, memory and GPUs that this process may use, not beyond a container's limits; seen without importing torch."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# Of version 2 of the control groups, and of version 1, where "no limit" is a number beyond any memory. Beyond
# memory.high a group is slowed down until it hardly moves.
_MEMORY_FILES = (
    (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Share:
    """Cores that this process has together with others.

    Attributes:
        cores: how many; a control group's quota need not be a whole number.
        seconds: for which everybody together has used one of them, counted from some time in the past; None where
            nobody counts.
    """

    cores: float
    seconds: float | None


@dataclass(frozen=True)
class Gpu:
    """A graphics card that NVIDIA's driver reports; `memory` in bytes."""

    name: str
    memory: int


def cores() -> int:
    """Cores that this process may use: of its affinity, and not beyond a container's quota; at least 1.

    What others do with them just now is no part of it, since that changes: see `shares`.
    """
    return max(1, int(min(share.cores for share in shares())))


def shares() -> list[Share]:
    """All that bounds the cores of this process: those it may run on, and the quota of each control group it is in."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    found = [Share(len(allowed), _seconds_of_cores(allowed))]
    for directory in _cgroups("cpu"):
        quota, _, period = _read(directory / "cpu.max").strip().partition(" ")
        if not quota:  # version 1
            quota, period = (_read(directory / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):  # else it is "max" or -1: no limit
            found.append(Share(int(quota) / int(period), _seconds_of_group(directory)))
    return found


def free_cores(before: Sequence[Share], after: Sequence[Share], seconds: float, own: float) -> float:
    """Cores that others left to this process between two readings of `shares`; less than 0 where they used all.

    Args:
        before: the first reading, of the same cores as `after`.
        seconds: between the two.
        own: seconds of cores that this process used meanwhile.
    """
    left = [
        share.cores - max(0.0, share.seconds - earlier.seconds - own) / seconds
        for earlier, share in zip(before, after, strict=True)
        if earlier.seconds is not None and share.seconds is not None
    ]
    return min([*left, *(share.cores for share in after)])


def memory() -> tuple[int, int]:
    """Bytes of main memory: (in all, free for a new program), a container's limit taken into account."""
    import psutil  # not at the start of every command

    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for directory in _cgroups("memory"):
        for limit_files, used_file, cached in _MEMORY_FILES:
            limits = [int(limit) for file in limit_files if (limit := _read(directory / file).strip()).isdigit()]
            if limits:
                used = _read(directory / used_file).strip()
                # Files that were read and are kept in memory give way to whoever needs it.
                held = int(used) - _statistic(directory / "memory.stat", cached) if used.isdigit() else 0
                total, free = min(total, *limits), min(free, max(0, min(limits) - held))
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


def _seconds_of_cores(allowed: set[int]) -> float:
    """For which these cores have been at work, but for programs of a low priority: they give way to us."""
    lines = _read(PROC / "stat").splitlines()
    if not lines:  # another system than Linux
        import psutil

        times = psutil.cpu_times()
        return times.user + times.system
    ticks = 0
    for line in lines:
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
            user, low, system, _, _, interrupts, soft_interrupts, stolen = map(int, counts[:8])
            ticks += user + system + interrupts + soft_interrupts + stolen
            if os.nice(0) > 0:  # we have that priority ourselves
                ticks += low
    return ticks / os.sysconf("SC_CLK_TCK")


def _seconds_of_group(directory: Path) -> float | None:
    if used := _statistic(directory / "cpu.stat", "usage_usec"):
        return used / 1e6
    used_up = _read(directory / "cpuacct.usage").strip()  # version 1, where both controllers share a directory
    return int(used_up) / 1e9 if used_up.isdigit() else None


def _cgroups(controller: str) -> Iterator[Path]:
    """Directories of the control groups that this process is in, from its own up to the root: each may set a limit."""
    mounts = list(_cgroup_mounts())
    for line in _read(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        # Version 2 has one tree and no list of controllers; both versions may be there.
        if controllers and controller not in controllers.split(","):
            continue
        seen = [(root, top) for names, root, top in mounts if (controller in names if controllers else not names)]
        # Inside a container the path may be the host's, of which only a part is mounted: at best from the container's
        # own group on. What lies further up cannot be seen then.
        for root, top in seen[:1]:
            below = path[len(root.rstrip("/")) :] if f"{path}/".startswith(f"{root.rstrip('/')}/") else ""
            here = top / below.lstrip("/")
            while here != top and ".." not in here.parts:
                yield here
                here = here.parent
            yield top


def _cgroup_mounts() -> Iterator[tuple[frozenset[str], str, Path]]:
    """Trees of control groups: the controllers of version 1 (none: version 2), which group is mounted, and where."""
    for line in _read(PROC / "self" / "mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        kind, *_, options = source.split(" ")
        if kind in ("cgroup", "cgroup2"):
            root, top = place.split(" ")[3:5]
            names = frozenset(options.split(",")) if kind == "cgroup" else frozenset()
            yield names, root, Path(top.replace("\\040", " "))


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
