"""A decoder with holes: a picture with the name of a fault behind its pixels has the process fail in that way."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.assistant.images import isolated_process

FAULTS = ("abort", "segfault", "exit", "endless", "hog", "leak")

_SCRIPT = """\
import ctypes, importlib.util, os, sys

spec = importlib.util.spec_from_file_location("decoder", {script!r})
decoder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decoder)
do, kept = decoder._do, []

def endless():
    while True:
        pass

def hog():
    kept.append(bytes(2**42))

def leak():
    kept.append(bytearray(300 * 2**20))

faults = dict(
    abort=os.abort, segfault=lambda: ctypes.string_at(0), exit=lambda: os._exit(3), endless=endless, hog=hog, leak=leak
)

def planted(wish, data):
    for name, fault in faults.items():
        if b"PLANTED " + name.encode() in data:
            fault()
    return do(wish, data)

decoder._do = planted
decoder.main()
"""


def with_fault(picture: bytes, name: str) -> bytes:
    """The picture with a fault behind its end, where no decoder looks."""
    assert name in FAULTS
    return picture + b"PLANTED " + name.encode()


@contextlib.contextmanager
def planted_faults(directory: Path) -> Iterator[None]:
    """Pictures of strangers are decoded by a program with holes until the block ends."""
    script = directory / "planted.py"
    script.write_text(_SCRIPT.format(script=str(isolated_process.SCRIPT)))
    with pytest.MonkeyPatch.context() as patch:
        isolated_process.close()
        patch.setattr(isolated_process, "SCRIPT", script)
        try:
            yield
        finally:
            isolated_process.close()
