"""A door that strangers' bytes come through, and what counts as a hole in it."""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fourfold.prompts.errors import UserError
from tests.fuzz.mutation import Mutator

SECONDS = 10.0
"""Of computing, for one input."""
MEBIBYTES = 2048
"""Of resident memory, for the whole process."""


@dataclass(frozen=True)
class Target:
    """One of `targets`.

    Attributes:
        seeds: valid inputs, made here.
        run: takes an input in, as the product does; it may raise a `UserError`, and nothing else.
        mutate: an input to another.
        longest: bytes of an input.
        close: ends what it runs in; more than once does no harm.
    """

    seeds: Sequence[bytes]
    run: Callable[[bytes], object]
    mutate: Callable[[Mutator, bytes], bytes] = Mutator.bytes
    longest: int = 2**16
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Finding:
    """An input that something is wrong with.

    Attributes:
        kind: `exception`, `slow`, or how the process ended: `crash`, `hang`, `memory`.
        what: the exception's type and text.
        place: the last line of ours that it passed; the same place is one finding.
    """

    kind: str
    what: str
    place: str


def attempt(target: Target, data: bytes) -> tuple[bool, Finding | None]:
    """Whether the input was taken, not refused, and what is wrong about how."""
    began = time.process_time()
    taken, finding = True, None
    try:
        target.run(data)
    except UserError as error:
        taken = False
        if "\n" in str(error).strip() or not str(error).strip():
            finding = Finding("exception", f"a refusal of several lines or none: {str(error)[:300]!r}", place(error))
    except Exception as error:
        taken = False
        finding = Finding("exception", f"{type(error).__name__}: {error}"[:300], place(error))
    if (seconds := time.process_time() - began) > SECONDS and finding is None:
        finding = Finding("slow", f"{seconds:.1f} s of computing", f"{len(data)} bytes")
    return taken, finding


def place(error: BaseException) -> str:
    """`assistant/images/png.py:40`, the innermost line of the product, else of whatever it is."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/fourfold/" in frame.filename or "/targets/" in frame.filename]
    frame = (ours or frames)[-1]
    parts = Path(frame.filename).parts
    return f"{'/'.join(parts[-3:])}:{frame.lineno}"


class Logged(logging.Handler):
    """Keeps the exceptions that a server logs instead of raising them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.errors.append(record.exc_info[1])
