"""Threads follow the cores that are free: the policy on a simulated machine, and beside a program that really works."""

import itertools
import logging
import os
import platform
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from fourfold.assistant import machine
from fourfold.serving.engine import threads as module
from fourfold.serving.engine.threads import SessionPool, Threads
from tests.containers import GIB, Container
from tests.serving.engine.conversations import wait_for


class Machine:
    """A machine whose time passes only when it is told to.

    Attributes:
        others: cores that other programs use, of each share.
    """

    def __init__(self, *cores: float, others: float = 0.0) -> None:
        self.cores, self.others = list(cores), [others] * len(cores)
        self.clock = self.own = 0.0
        self.seconds = [100.0] * len(cores)
        self.threads = Threads(self.shares, lambda: self.own, lambda: self.clock)

    def shares(self) -> list[machine.Share]:
        return [machine.Share(*share) for share in zip(self.cores, self.seconds, strict=True)]

    def work(self, seconds: float) -> list[int]:
        """Steps of 10 ms on as many threads as may be; those numbers."""
        numbers = []
        for _ in range(round(seconds * 100)):
            numbers.append(self.threads.now())
            self.own += numbers[-1] * 0.01
            self.wait(0.01, numbers[-1])
        return numbers

    def wait(self, seconds: float, ours: float = 0.0) -> None:
        self.clock += seconds
        for place, others in enumerate(self.others):
            self.seconds[place] += (others + ours) * seconds


@pytest.fixture(autouse=True)
def no_limit_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def changes(numbers: list[int]) -> list[int]:
    """Each number once for as long as it stayed."""
    return [number for number, _ in itertools.groupby(numbers)]


def test_alone_all_cores() -> None:
    host = Machine(4)
    assert set(host.work(10)) == {4}


def test_beside_others_what_they_leave_and_all_again_afterwards() -> None:
    host = Machine(2)
    host.work(2)
    host.others = [1.0]
    numbers = host.work(5)
    assert changes(numbers) == [2, 1] and numbers.index(1) < 150, "within a second or so"
    host.others = [0.0]
    numbers = host.work(5)
    assert changes(numbers) == [1, 2] and numbers.index(2) < 150


def test_what_others_used_while_the_engine_was_loaded_does_not_count() -> None:
    """It is often one's own page or client that starts as well."""
    host = Machine(2, others=1.0)
    host.wait(1)
    host.others = [0.0]
    assert set(host.work(5)) == {2}


def test_a_full_machine_leaves_one_thread() -> None:
    host = Machine(4, others=6.0)
    assert host.work(5)[-1] == 1


def test_a_burst_changes_nothing() -> None:
    host = Machine(2)
    host.work(2)
    for _ in range(10):
        host.others = [1.0]
        numbers = host.work(0.25)
        host.others = [0.0]
        numbers += host.work(1)
        assert set(numbers) == {2}


@pytest.mark.parametrize("others", [0.3, 0.5, 0.7, 1.0, 1.3, 1.7])
@pytest.mark.parametrize("cores", [2, 4, 16])
def test_no_flapping_whatever_others_use(cores: int, others: float) -> None:
    host = Machine(cores, others=others)
    host.work(3)
    assert len(changes(host.work(30))) <= 2, "at most once more, where it is a matter of rounding"


def test_two_engines_settle_at_half_each() -> None:
    """What one does is what the other sees."""
    first, second = Machine(2), Machine(2)
    for _ in range(1000):
        numbers = first.threads.now(), second.threads.now()
        served = [number * min(1.0, 2 / sum(numbers)) for number in numbers]
        for host, ours, others in ((first, *served), (second, *reversed(served))):
            host.own += ours * 0.01
            host.others = [others]
            host.wait(0.01, ours)
    assert (first.threads.now(), second.threads.now()) == (1, 1)


def test_a_quota_bounds_and_its_group_counts() -> None:
    """A container with four cores of a host with 64, of which 60 are at work: those four are ours all the same."""
    host = Machine(64, 4)
    host.others = [60.0, 0.0]
    assert host.threads.limit == 4 and set(host.work(5)) == {4}
    host.others = [60.0, 2.0]  # of the same container
    assert host.work(5)[-1] == 2


def test_a_quota_that_changes_while_it_runs() -> None:
    host = Machine(8, 8)
    host.work(2)
    host.cores = [8, 2]
    assert host.work(1)[-1] == 2
    host.cores = [8, 6]
    assert host.work(3)[-1] == 6


def test_what_was_seen_before_a_long_pause_does_not_count() -> None:
    host = Machine(2)
    host.work(2)
    host.others = [2.0]
    host.wait(600)
    host.others = [0.0]
    assert set(host.work(5)) == {2}


def test_what_others_do_in_the_pauses_between_questions_does_not_count() -> None:
    """Servers that are asked in turn each have all cores in theirs."""
    host = Machine(2)
    for _ in range(10):
        host.others = [0.0]
        assert set(host.work(1)) == {2}
        host.others = [2.0]
        host.wait(1.5)


def test_what_others_do_while_the_engine_reads_ahead_does_not_count() -> None:
    """Of servers that are asked in turn one still reads ahead while the next one answers on all cores."""
    host = Machine(2)
    for _ in range(10):
        host.others = [0.0]
        assert set(host.work(1)) == {2}
        host.others = [2.0]
        with host.threads.unwatched():
            assert set(host.work(0.5)) == {2}


def test_the_environment_sets_a_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert set(Machine(8).work(3)) == {3}
    assert set(Machine(2).work(3)) == {2}
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert Machine(8).threads.limit == 4
    for odd in ("0", "many", "", ",4", "-1", "\u00b3"):
        monkeypatch.setenv("OMP_NUM_THREADS", odd)
        assert Machine(8).threads.limit == Machine(8).threads.limit == 8
        assert caplog.text.count(f"OMP_NUM_THREADS={odd} is not followed") == bool(odd)


def test_a_busy_host_is_not_a_busy_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither loadavg nor cores outside the affinity take a thread away."""
    container = Container(tmp_path, monkeypatch)
    container.write(container.proc / "loadavg", "90.0 90.0 90.0 97/4000 12345")
    container.write(container.groups / "cpu.max", "400000 100000")
    clock = [0.0]

    def stat(busy: int) -> None:
        cores = [f"cpu{core} {busy if core >= 8 else 0} 0 0 0 0 0 0 0 0 0" for core in range(64)]
        container.write(container.proc / "stat", "\n".join(cores))

    stat(0)
    threads = Threads(own=lambda: 0.0, clock=lambda: clock[0])
    threads.now()
    for clock[0] in (1.0, 2.0, 3.0):
        stat(round(100 * clock[0]))
        assert threads.now() == threads.limit == 4


def test_a_look_costs_nothing_between_looks() -> None:
    looks = []

    def shares() -> list[machine.Share]:
        looks.append(1)
        return [machine.Share(2, 0.0)]

    threads = Threads(shares, lambda: 0.0, lambda: 0.1)
    threads.now()
    looks.clear()
    for _ in range(1000):
        threads.now()
    assert not looks


@pytest.fixture
def two_cores() -> Iterator[None]:
    """This thread and the processes that it starts have two cores of the machine."""
    if not hasattr(os, "sched_setaffinity") or machine.cores() < 2:
        pytest.skip("there are no two cores to be bound to")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:2])
    yield
    os.sched_setaffinity(0, allowed)


@pytest.mark.usefixtures("two_cores")
def test_beside_processes_that_really_work() -> None:
    """One thread while two others work on the two cores, both cores again when they have ended."""
    threads = Threads()
    assert threads.limit == 2
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        wait_for(lambda: threads.now() == 1, seconds=60)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    end = time.monotonic() + 3
    while threads.now() == 1:
        if time.monotonic() > end and sum(psutil.cpu_percent(interval=1.0, percpu=True)) > 20:
            pytest.skip("other programs are using this machine's cores")
        assert time.monotonic() < end + 30, "waited in vain"
        time.sleep(0.02)


class Session:
    """Stands for one of onnxruntime."""

    def __init__(self, threads: int) -> None:
        self.threads = threads


class Pool(SessionPool):
    """Of sessions that are built when `finish` is called.

    Attributes:
        wanted: threads for the next step.
        made: numbers of the sessions that were built.
    """

    def __init__(self, wanted: int, **options: Any) -> None:
        self.wanted, self.made = wanted, list[int]()
        self._go = threading.Event()
        self._go.set()
        super().__init__(self._new, now=lambda: self.wanted, **options)
        self._go.clear()

    def threads(self) -> int:
        return cast(Session, self.session()).threads

    def finish(self) -> None:
        """Let what is being built be ready."""
        self._go.set()
        for thread in threading.enumerate():
            if thread.name == "fourfold-session":
                thread.join(20)
        self._go.clear()

    def _new(self, number: int) -> Any:
        assert self._go.wait(20)
        self.made.append(number)
        return Session(number)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one number is the time."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_steps_go_on_while_another_session_is_built(clock: list[float]) -> None:
    pool = Pool(2)
    pool.wanted = 1
    assert [pool.threads() for _ in range(5)] == [2] * 5
    pool.finish()
    assert pool.threads() == 1 and pool.made == [2, 1]


def test_going_back_builds_nothing(clock: list[float]) -> None:
    pool = Pool(2)
    for pool.wanted in (1, 2, 1, 2):
        pool.session()
        pool.finish()
        assert pool.threads() == pool.wanted
        clock[0] += 10
    assert pool.made == [2, 1]


def test_the_session_before_goes_when_it_was_not_wanted_for_a_while(clock: list[float]) -> None:
    pool = Pool(2)
    before = weakref.ref(pool.session())
    pool.wanted = 1
    pool.session()
    pool.finish()
    pool.session()
    clock[0] += 19
    pool.session()
    assert before() is not None
    clock[0] += 2
    pool.session()
    assert before() is None, "its memory is free"


def test_two_sessions_at_most(clock: list[float]) -> None:
    pool = Pool(8)
    eight = weakref.ref(pool.session())
    for pool.wanted in (4, 2):
        pool.session()
        assert (eight() is None) is (pool.wanted == 2), "it goes before the third is built"
        pool.finish()
        assert pool.threads() == pool.wanted
        clock[0] += 3
    assert pool.made == [8, 4, 2]


def test_what_is_no_longer_wanted_when_it_is_ready(clock: list[float]) -> None:
    pool = Pool(2)
    pool.wanted = 1
    pool.session()
    pool.wanted = 2
    pool.finish()
    assert pool.threads() == 2
    pool.wanted = 1
    assert pool.threads() == 1 and pool.made == [2, 1]


def test_without_memory_for_another_things_stay_as_they_are(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: (8 * GIB, GIB))
    pool = Pool(2, nbytes=GIB)
    pool.wanted = 1
    with caplog.at_level(logging.WARNING, "fourfold.engine"):
        for _ in range(5):
            assert pool.threads() == 2
            pool.finish()
            clock[0] += 3
    assert caplog.messages == ["cannot change to 1 threads: too little memory is free"], "said once"
    monkeypatch.setattr(machine, "memory", lambda: (8 * GIB, 4 * GIB))
    clock[0] += 60
    pool.session()
    pool.finish()
    assert pool.threads() == 1


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="threads are counted on Linux")
@pytest.mark.parametrize(("given", "threads"), [(None, 1), ("2", 2)])
def test_numpy_has_one_thread_unless_the_environment_says(given: str | None, threads: int) -> None:
    """Its products are small, and a pool of its own would stand in the way of ours."""
    program = "import fourfold, numpy, os; print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    if given is not None:
        environment["OPENBLAS_NUM_THREADS"] = given
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(threads, machine.cores())
