"""Ctrl-C during a conversation: it ends what is waited for, and never the printing, the terminal or the session."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self


class Interrupts:
    """While this is entered Ctrl-C raises KeyboardInterrupt in `heard` only, and is kept for the next one elsewhere.

    By itself Python may raise it between any two steps: where an error is being told, between two turns of a loop, or
    just when rich has started the thread that draws a live display, which then nobody stops.
    """

    def __init__(self) -> None:
        self._listening = self._kept = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Where something is waited for that may take long.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, now or since the last of these; once, so that nothing interrupts what
                cleans up behind it.
        """
        self._listening = True
        try:
            if self._kept:
                self._interrupt()
            yield
        finally:
            self._listening = False

    def _interrupt(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        self._kept = not self._listening
        if self._listening:
            self._listening = False
            raise KeyboardInterrupt
