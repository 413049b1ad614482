"""A target with holes, for the test that they are found."""

import os
import signal
import time
from pathlib import Path

from fourfold.prompts.errors import UserError
from tests.fuzz.target import Target


def holes(directory: Path) -> Target:
    """By the first byte: a refusal, an exception, a crash; a hang and gigabytes where a variable asks for them."""
    asked = os.environ.get("PLANTED", "")

    def run(data: bytes) -> None:
        match data[:1]:
            case b"r":
                raise UserError("refused")
            case b"e":
                raise KeyError("a hole")
            case b"c":
                os.kill(os.getpid(), signal.SIGSEGV)
            case b"h" if asked == "hang":
                time.sleep(600)
            case b"m" if asked == "memory":
                kept = bytearray(3 * 2**30)
                kept[:: 2**12] = b"x" * len(kept[:: 2**12])
                time.sleep(5)

    return Target([b"a", b"b"], run, lambda mutator, data: bytes([mutator.random.choice(b"abrechm")]), 4)
