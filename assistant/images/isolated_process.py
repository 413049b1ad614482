"""The processes in which decoders may die: a few that wait for pictures.

AVIF, HEIC and PDF, whose decoders are many times as large as those of other formats, are decoded in a fork that sees no
other file, has caps of its own on memory and time, and ends with it. The other formats are decoded by the waiting
process itself, because fresh memory costs more than all the rest; one that keeps memory ends after its picture. The
first picture waits until a process has started, a fifth of a second; so does one after a crash. Where processes cannot
fork (Windows) each AVIF, HEIC and PDF waits for that.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fourfold

MOST = 2
"""Processes at most, and so pictures that are decoded at the same time; more would hold more pixels in memory."""
MEMORY = 3 * 2**30
"""Bytes of address space of each, where the system can cap that (on Linux): what is made upright, opaque and 8-bit of
52 million pixels is there several times."""
SCRIPT = Path(__file__).with_name("isolated_decoder.py")

_HEAD = 2**16  # bytes of the line that comes before pixels
_KEPT = str(2**25)
"""Bytes that a process keeps for its next picture: getting them anew takes longer than decoding a photo in part."""
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": _KEPT,
    "MALLOC_TRIM_THRESHOLD_": _KEPT,
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
} | {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}


class Died(Exception):
    """The decoder's process ended before it answered; its argument is the name of the signal, "" for a time limit."""


class DecodingProcess:
    """A process that runs `isolated_decoder.py`, for one caller at a time.

    Args:
        memory: bytes of address space that it may have, where the system can cap that (on Linux).

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, memory: int) -> None:
        # Not all that this process imports is on a path: an editable installation has a finder of its own.
        path = [str(Path(fourfold.__file__).resolve().parents[1]), *(entry for entry in sys.path if entry)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SCRIPT), json.dumps({"path": path, "memory": memory})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what decoders print may be of the picture
            bufsize=0,
            env=_ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the server, which lets answers finish
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        _widen(self._in, self._out)
        if sys.platform != "win32":  # a process that reads no more must not hold up who writes to it
            os.set_blocking(self._in, False)
        self._last = False

    @property
    def can_be_asked(self) -> bool:
        """Whether it is there and takes another picture."""
        return not self._last and self._process.poll() is None

    def ask(self, wish: dict[str, Any], data: bytes, seconds: float) -> tuple[dict[str, Any], "Reader"]:
        """Send a file with what is wanted of it.

        Returns:
            What the process says, and where the pixels that it names can be read from.

        Raises:
            Died: it ended, or took longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        reader = Reader(self._out, deadline)
        head = json.dumps({**wish, "length": len(data)}).encode()
        try:
            for block in (len(head).to_bytes(4, "big") + head, data):
                left = memoryview(block)
                while left:
                    _wait(self._in, select.POLLOUT, deadline)
                    left = left[os.write(self._in, left) :]
            told = json.loads(reader.line())
        except (OSError, ValueError, EOFError):
            raise Died(self._signal()) from None
        self._last = told.get("last", False)
        return told, reader

    def _signal(self) -> str:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return ""
        return signal.Signals(-code).name if code < 0 else f"code {code}"

    def kill(self) -> None:
        """End it with whatever it is decoding."""
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, 9)
            else:
                self._process.kill()
        self.close()

    def close(self) -> None:
        """Let it go: it ends when nobody can ask it any more."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)


class Reader:
    """Bytes from a pipe until a moment of `time.monotonic()`.

    Raises (every method):
        EOFError: the pipe's other end is closed, or it is too late.
    """

    def __init__(self, pipe: int, deadline: float) -> None:
        self._pipe, self._deadline = pipe, deadline
        self._ahead = b""

    def line(self) -> bytes:
        """Up to the next line break."""
        while b"\n" not in self._ahead:
            _wait(self._pipe, select.POLLIN, self._deadline)
            block = os.read(self._pipe, _HEAD)
            if not block or len(self._ahead) > _HEAD:
                raise EOFError
            self._ahead += block
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line

    def exactly(self, length: int) -> bytearray:
        """So many bytes."""
        found = bytearray(length)
        place = min(length, len(self._ahead))
        found[:place], self._ahead = self._ahead[:place], self._ahead[place:]
        view = memoryview(found)
        while place < length:
            _wait(self._pipe, select.POLLIN, self._deadline)
            block = os.readv(self._pipe, [view[place:]]) if hasattr(os, "readv") else self._read(view[place:])
            if not block:
                raise EOFError
            place += block
        return found

    def _read(self, into: memoryview) -> int:
        block = os.read(self._pipe, min(len(into), 2**20))
        into[: len(block)] = block
        return len(block)


def _wait(pipe: int, event: int, deadline: float) -> None:
    """Until a pipe can be read or written.

    Raises:
        EOFError: it is too late.
    """
    if sys.platform == "win32":  # pipes cannot be waited for there
        return
    waiting = select.poll()  # `select.select` takes no descriptor above 1023, and a server may have those
    waiting.register(pipe, event)
    if not waiting.poll(1000 * max(0.0, deadline - time.monotonic())):
        raise EOFError


class _Pool:
    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._room = threading.BoundedSemaphore(MOST)
        self._idle: list[DecodingProcess] = []

    @contextlib.contextmanager
    def process(self) -> Iterator[DecodingProcess]:
        """A process for one file; one that failed meanwhile is not used again.

        Raises:
            OSError: none can be started.
        """
        with self._room:
            process = self._next()
            try:
                yield process
            except BaseException:
                process.kill()
                raise
            self._idle.append(process)

    def _next(self) -> DecodingProcess:
        with contextlib.suppress(IndexError):
            while not (process := self._idle.pop()).can_be_asked:  # killed by somebody while it waited
                process.close()
            return process
        return DecodingProcess(self._memory)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


_pool = _Pool(MEMORY)


def _start_anew() -> None:
    """In a fork of this process: the pipes are the parent's."""
    global _pool
    _pool = _Pool(MEMORY)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


@atexit.register
def close() -> None:
    """End all processes that wait; the next picture has new ones."""
    _pool.close()


def process() -> contextlib.AbstractContextManager[DecodingProcess]:
    """As `_Pool.process`, of the processes that all of this program share."""
    return _pool.process()


def _widen(*pipes: int) -> None:
    """Fewer turns between reader and writer; what a system allows is enough."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        for pipe in pipes:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)
