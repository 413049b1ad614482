"""How many threads the next step may use: the cores that are free while the engine runs, not those it found at start.

Two programs with a thread for every core wait for each other at the end of every operator, and together they get less
done than with half the threads each. So an engine leaves to others what they use, and takes it back when they are done.
No answer depends on it: results of the graphs are the same to the last bit for any number of threads.
"""

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from fourfold.assistant import machine
from fourfold.prompts.errors import first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

log = logging.getLogger("fourfold.engine")
_LOOK = 0.25
"""Seconds between two looks at the machine."""
_HALF_LIFE = 0.4
"""Seconds after which what was seen counts half: nothing follows from a burst that is shorter."""
_STALE = 2.0
"""Seconds after which a look is no news of what happens now."""
_BREAK = 0.6
"""Seconds after which a look counts only if the engine has worked for half of them: what others did while it had
nothing to do is no reason to leave them a core now.
"""
_KEPT = 20.0
"""Seconds for which a session is kept that another has taken over from."""
_PAUSE = 2.0
"""Seconds between building two sessions, at least."""


class Threads:
    """Follows what other programs leave free while steps are made, from all cores on. Any thread may ask.

    Args:
        shares: of the machine, see `machine.shares`.
        own: seconds of cores that this process has used.
        clock: in seconds.
    """

    def __init__(
        self,
        shares: Callable[[], Sequence[machine.Share]] = machine.shares,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shares, self._own, self._clock = shares, own, clock
        self._looking = threading.Lock()
        self._watch()
        self._at = self._due = -math.inf  # what others do while a model is loaded is no news of what they do later
        self._number = self.limit
        self._free = float(self.limit)  # cores, of late

    def now(self) -> int:
        """Threads for the next step, from 1 to `limit`; looks at the machine a few times a second at most."""
        if self._clock() >= self._due and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        return self._number

    def follow_torch(self) -> None:
        """Have torch use as many, in the thread that calls."""
        import torch  # which only some engines need

        if torch.get_num_threads() != (number := self.now()):
            torch.set_num_threads(number)

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """For what is done between questions: what others use meanwhile says nothing of the next question."""
        self._due = math.inf
        try:
            yield
        finally:
            self._at = self._due = -math.inf

    def _watch(self) -> None:
        self._seen, self._used, self._at = self._shares(), self._own(), self._clock()
        self._due = self._at + _LOOK
        self.limit = _limit(self._seen)

    def _look(self) -> None:
        seen, used, at = self._seen, self._used, self._at
        self._watch()
        elapsed, used = self._at - at, self._used - used
        same = [share.cores for share in seen] == [share.cores for share in self._seen]
        paused = elapsed > _BREAK and used < elapsed / 2
        if same and elapsed < _STALE and not paused:
            free = machine.free_cores(seen, self._seen, elapsed, used)
            self._free = free + (self._free - free) * 0.5 ** (elapsed / _HALF_LIFE)
            self._number = _follow(self._number, self._free, self.limit)
        self._number = min(self._number, self.limit)


class SessionPool:
    """onnxruntime's sessions of one graph: the one for the threads that may be used now. For one thread at a time.

    A session's threads are given once and for all, and another session costs its weights' memory and a fraction of a
    second. So it is built when it is wanted, beside the steps, and the one that it took over from goes when it was not
    wanted for a while.

    Args:
        make: a session with so many threads; called here, and later from other threads.
        now: threads that may be used, see `Threads.now`.
        nbytes: of memory that a session takes, about; no second one is built where twice that is not free.
    """

    def __init__(
        self, make: Callable[[int], "InferenceSession"], *, now: Callable[[], int] | None = None, nbytes: int = 0
    ) -> None:
        self._make, self._now, self._nbytes = make, now or threads.now, nbytes
        number = threads.limit if now is None else now()
        self._sessions = [(number, make(number))]  # the one in use, and at most one more
        self._builder: threading.Thread | None = None
        self._built: tuple[int, InferenceSession] | None = None
        self._build_after = self._drop_after = 0.0  # on the monotonic clock

    def session(self) -> "InferenceSession":
        """The one for the next step."""
        wanted, clock = self._now(), time.monotonic()
        if self._built is not None:
            self._sessions[1:], self._built = [self._built], None
            self._drop_after = clock + _KEPT
        if self._sessions[0][0] != wanted:
            if self._sessions[-1][0] == wanted:
                self._sessions.reverse()
                self._drop_after = clock + _KEPT
            elif clock > self._build_after and (self._builder is None or not self._builder.is_alive()):
                self._build_after = clock + _PAUSE
                del self._sessions[1:]  # there would be three
                # Not a daemon: the interpreter may not end while one is inside onnxruntime.
                self._builder = threading.Thread(target=self._build, args=(wanted,), name="fourfold-session")
                try:
                    self._builder.start()
                except RuntimeError as error:  # no more threads are allowed: things stay as they are
                    log.warning("cannot change to %d threads: %s", wanted, first_line(error))
                    self._build_after = clock + _KEPT
        elif len(self._sessions) > 1 and clock > self._drop_after:
            del self._sessions[1:]
        return self._sessions[0][1]

    def _build(self, number: int) -> None:
        try:
            if machine.memory()[1] < 2 * self._nbytes:
                raise MemoryError("too little memory is free")
            self._built = number, self._make(number)
        except Exception as error:  # then things stay as they are
            log.warning("cannot change to %d threads: %s", number, first_line(error))
            self._build_after = time.monotonic() + _KEPT


def _follow(number: int, free: float, limit: int) -> int:
    """Threads for so many free cores, where there are `number` now: another number only if it is clearly better."""
    # Whoever asks needs a part of a core as well, and so do the decoders of what is asked about.
    if free < number - max(0.75, number / 8):
        return max(1, int(free + 0.5))
    if free >= limit - max(0.5, limit / 16):
        return limit
    if free >= number + max(0.75, number / 4):
        return int(free + 0.25)
    return number


def _limit(shares: Sequence[machine.Share]) -> int:
    """Cores of the process, or OMP_NUM_THREADS if that is less."""
    cores = max(1, int(min(share.cores for share in shares)))
    return min(cores, _wanted(os.environ.get("OMP_NUM_THREADS", "")) or cores)


@cache
def _wanted(setting: str) -> int | None:
    """Threads at most by OMP_NUM_THREADS; None where it says nothing, and a warning, once, where that is a mistake."""
    number = setting.partition(",")[0].strip()  # of nested regions, others
    if number.isdecimal() and int(number):
        return int(number)
    if setting.strip():
        log.warning("OMP_NUM_THREADS=%s is not followed: it must be a whole number from 1 on", setting)
    return None


threads = Threads()
