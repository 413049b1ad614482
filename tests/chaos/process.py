"""A process that works and may be killed at any moment.

It is forked from one that has imported everything: what it does is what the command does, and a kill costs the work
that was under way, not seconds of imports.
"""

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_OPERATIONS = {
    *("sqlite3.connect", "shutil.rmtree"),
    *("os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.chmod"),
}
"""Audit events of the interpreter that change what is on the disk, beside `open` for writing."""


@dataclass(frozen=True)
class Kill:
    """When a process is killed: after `seconds`, or right before the file operation of this `number` (from 1)."""

    seconds: float | None = None
    number: int | None = None

    def __str__(self) -> str:
        return f"after {self.seconds:.3f} s" if self.seconds is not None else f"before file operation {self.number}"


def kills(dice: random.Random, seconds: float, operations: int) -> Kill:
    """A kill within so many seconds, or as often within so many file operations, of which there may be none."""
    if operations and dice.random() < 0.5:
        return Kill(number=dice.randrange(1, operations + 1))
    return Kill(seconds=round(seconds * dice.random(), 3))


class Process:
    """A forked child in a session of its own.

    Args:
        work: what it does; what it returns is its exit code, None for 0.
        log: file that gets what it writes to stdout and stderr, appended.
        kill: when it kills itself; None for when it is told.
    """

    def __init__(self, work: Callable[[], Any], log: Path, kill: Kill | None = None) -> None:
        self.log = log
        self.began = time.monotonic()
        self._kill = kill
        self._code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be(work)

    def kill_when_due(self) -> int:
        """Wait for the end, which is a kill's where one comes in time; the exit code, negative for a signal."""
        if self._kill is not None and self._kill.seconds is not None:
            deadline = self.began + self._kill.seconds
            while self.poll() is None and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(left, 0.01))
            self.kill()
        return self.wait()

    def kill(self) -> None:
        """SIGKILL for it and its own children, unless it has ended."""
        if self.poll() is None:
            kill_group(self.pid)

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = 300) -> int:
        """The exit code.

        Raises:
            TimeoutError: it hung, and was killed.
        """
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                os.waitpid(self.pid, 0)
                self._code = -signal.SIGKILL
                raise TimeoutError(f"a process hung for {seconds:.0f} s, see {self.log}")
            time.sleep(0.002)
        return code

    def said(self) -> str:
        """What it and its predecessors wrote to the log."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def _be(self, work: Callable[[], Any]) -> None:
        code = 1
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            target = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(target, 1)
            os.dup2(target, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
            if self._kill is not None and self._kill.number is not None:
                sys.addaudithook(_Counter(self._kill.number))
            code = work() or 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def kill_group(pid: int) -> None:
    """SIGKILL for a process and its own children; for it alone where it has come to no session of its own yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
            return


class _Counter:
    """An audit hook that kills its process before the n-th file operation, or counts them where n is 0."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if not (writes or (isinstance(mode, str) and set(mode) & set("wax+"))):
                return
        elif event not in FILE_OPERATIONS:
            return
        self.seen += 1
        if self.seen == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def count_operations(work: Callable[[], Any], log: Path) -> tuple[float, int, int]:
    """Run something undisturbed in a process: seconds, file operations, exit code."""
    told = log.with_suffix(".operations")

    def counted() -> Any:
        counter = _Counter(0)
        sys.addaudithook(counter)
        try:
            return work()
        finally:
            number = counter.seen
            told.write_text(str(number), encoding="utf-8")

    process = Process(counted, log)
    code = process.wait()
    return time.monotonic() - process.began, int(told.read_text(encoding="utf-8")), code


def command(words: Sequence[str], environment: dict[str, str] | None = None) -> Callable[[], Any]:
    """The command `fourfold WORDS` as something to do."""

    def work() -> None:
        from fourfold.cli.main import main

        os.environ.update(environment or {})
        sys.argv = ["fourfold", *words]
        main()

    return work
