"""Cores and memory inside containers, whose control groups are faked."""

import os
from pathlib import Path

import psutil
import pytest

from fourfold.assistant import machine

GIB = 2**30


class Container:
    """Control groups and processes as files."""

    def __init__(self, directory: Path) -> None:
        self.groups, self.proc = directory / "cgroup", directory / "proc"
        self.member("0::/")

    def member(self, lines: str) -> None:
        self.write(self.proc / "self" / "cgroup", lines)

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    """Eight cores and 64 GiB, of which 48 are free; no limits yet."""
    fake = Container(tmp_path)
    monkeypatch.setattr(machine, "CGROUPS", fake.groups)
    monkeypatch.setattr(machine, "PROC", fake.proc)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(total=64 * GIB, available=48 * GIB))
    return fake


def test_without_limits_the_machine_is_ours(container: Container) -> None:
    container.write(container.groups / "cpu.max", "max 100000")
    container.write(container.groups / "memory.max", "max")
    container.write(container.groups / "memory.current", str(3 * GIB))
    assert machine.cores() == 8
    assert machine.memory() == (64 * GIB, 48 * GIB)


def test_no_control_groups_at_all(container: Container) -> None:
    (container.proc / "self" / "cgroup").unlink()
    assert machine.cores() == 8
    assert machine.memory() == (64 * GIB, 48 * GIB)


def test_version_2(container: Container) -> None:
    container.write(container.groups / "cpu.max", "250000 100000")
    container.write(container.groups / "memory.max", str(8 * GIB))
    container.write(container.groups / "memory.current", str(3 * GIB))
    container.write(container.groups / "memory.stat", f"anon {GIB}\ninactive_file {2 * GIB}\nactive_file 0")
    assert machine.cores() == 2
    assert machine.memory() == (8 * GIB, 7 * GIB), "files kept in memory give way"


def test_version_1(container: Container) -> None:
    container.member("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc")
    container.write(container.groups / "cpu" / "cpu.cfs_quota_us", "50000")
    container.write(container.groups / "cpu" / "cpu.cfs_period_us", "100000")
    container.write(container.groups / "memory" / "memory.limit_in_bytes", str(4 * GIB))
    container.write(container.groups / "memory" / "memory.usage_in_bytes", str(3 * GIB))
    container.write(container.groups / "memory" / "memory.stat", f"inactive_file 0\ntotal_inactive_file {GIB}")
    assert machine.cores() == 1
    assert machine.memory() == (4 * GIB, 2 * GIB)


def test_version_1_without_limits(container: Container) -> None:
    container.member("4:memory:/\n3:cpu,cpuacct:/")
    container.write(container.groups / "cpu" / "cpu.cfs_quota_us", "-1")
    container.write(container.groups / "cpu" / "cpu.cfs_period_us", "100000")
    container.write(container.groups / "memory" / "memory.limit_in_bytes", str(2**63 - 4096))
    container.write(container.groups / "memory" / "memory.usage_in_bytes", str(3 * GIB))
    assert machine.cores() == 8
    assert machine.memory() == (64 * GIB, 48 * GIB)


def test_a_limit_further_up_counts(container: Container) -> None:
    container.member("0::/user.slice/app.service")
    container.write(container.groups / "user.slice" / "app.service" / "cpu.max", "600000 100000")
    container.write(container.groups / "user.slice" / "cpu.max", "300000 100000")
    container.write(container.groups / "user.slice" / "memory.max", str(2 * GIB))
    container.write(container.groups / "user.slice" / "memory.current", str(3 * GIB))
    assert machine.cores() == 3
    assert machine.memory() == (2 * GIB, 0)


def test_a_path_of_the_host_is_not_followed_out_of_the_tree(container: Container) -> None:
    container.member("0::/../../elsewhere")
    container.write(container.groups / "cpu.max", "200000 100000")
    assert machine.cores() == 2


def test_a_busy_host_takes_nothing_of_a_containers_quota(container: Container) -> None:
    """The host's load speaks of cores that the container never had."""
    container.write(container.proc / "loadavg", "90.0 90.0 90.0 97/4000 12345")
    container.write(container.groups / "cpu.max", "400000 100000")
    assert machine.cores() == 4
