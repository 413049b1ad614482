"""A container's limits as files, for tests of what a process takes for itself."""

import os
from pathlib import Path

import psutil
import pytest

from fourfold.assistant import machine

GIB = 2**30


class Container:
    """Control groups and processes under a directory: eight cores and 64 GiB, of which 48 are free, and no limits yet.

    Attributes:
        groups: where the tree of version 2 is mounted; in `version_1` each controller has a directory of its own there.
        proc: stands for /proc.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups, self.proc = directory / "cgroup", directory / "proc"
        self.member("0::/")
        self.mounted(f"/ {self.groups} - cgroup2 cgroup2 rw")
        monkeypatch.setattr(machine, "PROC", self.proc)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
        real = psutil.virtual_memory()
        monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(total=64 * GIB, available=48 * GIB))

    def version_1(self, path: str, root: str = "/") -> None:
        """Make the process a member of a group of version 1; `root` is the group that is mounted."""
        controllers = ("memory", "cpu,cpuacct", "name=systemd")
        self.member("\n".join(f"{number}:{names}:{path}" for number, names in enumerate(controllers, 3)))
        (self.proc / "self" / "mountinfo").unlink()  # version 2 goes
        self.mounted(*(f"{root} {self.groups / names} - cgroup cgroup rw,{names}" for names in controllers))

    def member(self, lines: str) -> None:
        self.write(self.proc / "self" / "cgroup", lines)

    def mounted(self, *lines: str) -> None:
        """Mounts, beside those that are there, each from its root on."""
        file = self.proc / "self" / "mountinfo"
        others = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"]
        for line in lines:
            place, _, source = line.partition(" - ")
            others.append(f"31 22 0:28 {place} rw,nosuid shared:9 - {source}")
        known = file.read_text() if file.exists() else ""
        self.write(file, known + "\n".join(others))

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
