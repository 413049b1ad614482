"""Cores and memory inside containers, whose control groups are faked."""

import os
from pathlib import Path

import pytest

from fourfold.assistant import machine
from tests.containers import GIB, Container


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    """Eight cores and 64 GiB, of which 48 are free; no limits yet."""
    return Container(tmp_path, monkeypatch)


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
    """As inside Docker, which mounts the container's own group where the host's root would be."""
    container.version_1("/docker/abc", root="/docker/abc")
    container.write(container.groups / "cpu,cpuacct" / "cpu.cfs_quota_us", "50000")
    container.write(container.groups / "cpu,cpuacct" / "cpu.cfs_period_us", "100000")
    container.write(container.groups / "memory" / "memory.limit_in_bytes", str(4 * GIB))
    container.write(container.groups / "memory" / "memory.usage_in_bytes", str(3 * GIB))
    container.write(container.groups / "memory" / "memory.stat", f"inactive_file 0\ntotal_inactive_file {GIB}")
    assert machine.cores() == 1
    assert machine.memory() == (4 * GIB, 2 * GIB)


def test_version_1_without_limits(container: Container) -> None:
    container.version_1("/")
    container.write(container.groups / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1")
    container.write(container.groups / "cpu,cpuacct" / "cpu.cfs_period_us", "100000")
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


def test_groups_inside_a_container_of_version_1(container: Container) -> None:
    """Paths are the host's, and only the part from the container's group on is mounted."""
    container.version_1("/docker/abc/app/worker", root="/docker/abc")
    group = container.groups / "cpu,cpuacct" / "app"
    container.write(group / "cpu.cfs_quota_us", "300000")
    container.write(group / "cpu.cfs_period_us", "100000")
    container.write(container.groups / "memory" / "app" / "worker" / "memory.limit_in_bytes", str(GIB))
    container.write(container.groups / "memory" / "app" / "worker" / "memory.usage_in_bytes", str(GIB // 4))
    assert machine.cores() == 3
    assert machine.memory() == (GIB, 3 * GIB // 4)


def test_a_group_that_another_name_begins_with_is_not_the_mounted_one(container: Container) -> None:
    container.version_1("/docker/abcdef", root="/docker/abc")
    container.write(container.groups / "cpu,cpuacct" / "def" / "cpu.cfs_quota_us", "100000")
    container.write(container.groups / "cpu,cpuacct" / "def" / "cpu.cfs_period_us", "100000")
    assert machine.cores() == 8


def test_both_versions_at_once(container: Container) -> None:
    """As systemd's hybrid layout: controllers of version 1, and an empty tree of version 2 beside them."""
    container.version_1("/app")
    unified = container.groups / "unified"
    container.mounted(f"/ {unified} - cgroup2 cgroup2 rw")
    container.member((container.proc / "self" / "cgroup").read_text() + "0::/app")
    container.write(container.groups / "memory" / "app" / "memory.limit_in_bytes", str(GIB))
    container.write(container.groups / "memory" / "app" / "memory.usage_in_bytes", "0")
    container.write(unified / "app" / "cpu.max", "200000 100000")
    assert machine.memory() == (GIB, GIB)
    assert machine.cores() == 2


@pytest.mark.parametrize(
    ("quota", "cores"), [("50000 100000", 1), ("199000 100000", 1), ("max", 8), ("100000 0", 8), ("", 8), ("many 1", 8)]
)
def test_odd_quotas(container: Container, quota: str, cores: int) -> None:
    container.write(container.groups / "cpu.max", quota)
    assert machine.cores() == cores


def test_a_soft_limit_of_memory_is_one(container: Container) -> None:
    """Beyond memory.high the kernel slows a group down until it hardly moves."""
    container.write(container.groups / "memory.max", str(8 * GIB))
    container.write(container.groups / "memory.high", str(6 * GIB))
    container.write(container.groups / "memory.current", str(5 * GIB))
    assert machine.memory() == (6 * GIB, GIB)


def test_a_limit_counts_where_nobody_says_what_is_used(container: Container) -> None:
    container.write(container.groups / "memory.max", str(8 * GIB))
    assert machine.memory() == (8 * GIB, 8 * GIB)


def test_a_limit_beyond_the_machine_is_none(container: Container) -> None:
    container.write(container.groups / "memory.max", str(900 * GIB))
    container.write(container.groups / "memory.current", str(GIB))
    container.write(container.groups / "cpu.max", "6400000 100000")
    assert machine.memory() == (64 * GIB, 48 * GIB)
    assert machine.cores() == 8


def test_a_busy_host_takes_nothing_of_a_containers_quota(container: Container) -> None:
    """The host's load speaks of cores that the container never had."""
    container.write(container.proc / "loadavg", "90.0 90.0 90.0 97/4000 12345")
    container.write(container.groups / "cpu.max", "400000 100000")
    assert machine.cores() == 4


def test_what_everybody_uses_of_our_cores(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cores in our affinity, without programs of a low priority, which give way."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 2}, raising=False)
    tick = os.sysconf("SC_CLK_TCK")
    lines = [f"cpu{core} {core * tick} {500 * tick} {tick} {9000 * tick} {70 * tick} 0 0 0 0 0" for core in range(4)]
    container.write(container.proc / "stat", "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 12345 0 0"]))
    monkeypatch.setattr(os, "nice", lambda more: 0)
    assert machine.shares() == [machine.Share(2, 1 + 2 + 2)]
    monkeypatch.setattr(os, "nice", lambda more: 10)
    assert machine.shares() == [machine.Share(2, 1 + 2 + 2 + 1000)], "none of them gives way to us"


def test_what_a_group_uses_of_its_quota(container: Container) -> None:
    container.member("0::/app")
    container.write(container.proc / "stat", "cpu0 0 0 0 0 0 0 0 0 0 0")
    container.write(container.groups / "app" / "cpu.max", "150000 100000")
    container.write(container.groups / "app" / "cpu.stat", "usage_usec 2500000\nuser_usec 1\nsystem_usec 2")
    assert machine.shares() == [machine.Share(8, 0), machine.Share(1.5, 2.5)]
    container.version_1("/app")
    container.write(container.groups / "cpu,cpuacct" / "app" / "cpu.cfs_quota_us", "150000")
    container.write(container.groups / "cpu,cpuacct" / "app" / "cpu.cfs_period_us", "100000")
    assert machine.shares()[1:] == [machine.Share(1.5, None)], "nobody counts"
    container.write(container.groups / "cpu,cpuacct" / "app" / "cpuacct.usage", "3500000000")
    assert machine.shares()[1:] == [machine.Share(1.5, 3.5)]


def test_what_others_leave_free() -> None:
    before = [machine.Share(8, 100.0), machine.Share(2.5, 10.0), machine.Share(4, None)]
    after = [machine.Share(8, 112.0), machine.Share(2.5, 12.0), machine.Share(4, None)]
    # In two seconds: six cores of eight are at work and one of the group's, half a core's work is ours.
    assert machine.free_cores(before, after, 2.0, own=1.0) == min(8 - 5.5, 2.5 - 0.5)
    assert machine.free_cores(before[:1], after[:1], 2.0, own=1.0) == 2.5
    assert machine.free_cores(before[2:], after[2:], 2.0, own=1.0) == 4, "where nobody counts all are free"
    assert machine.free_cores(before[:1], after[:1], 2.0, own=13.0) == 8, "ticks are counted roughly"
