"""Files and directories that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old content or the new, on the disk as well.

    Its directory is made where there is none.

    Raises:
        OSError: it cannot be written; nothing changed.
    """
    with replacing(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path`, of the same suffix, for a library to write a file to: it takes the name `path` at the end.

    After an error nothing is left of it, and `path` is as it was.

    Raises:
        OSError: it cannot be written; nothing changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def building(directory: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty directory beside `directory`, which takes its name at the end; after an error nothing is left of it.

    Temporary directories and some libraries' files are private; here everybody may read the files at the top.

    Args:
        directory: the new one; there is none yet, or an empty one.
        replace: one that is there gives way. That takes two steps: killed between them, its content lies in a
            hidden directory beside it.

    Raises:
        OSError: it cannot be written, or `directory` holds something and `replace` is not set.
    """
    directory = directory.absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.building-"))
    try:
        yield part
        for path in part.iterdir():
            if path.is_file():
                path.chmod(0o644)
        part.chmod(0o755)
        if replace and directory.exists():
            old = part.with_name(f"{part.name}.old")
            directory.rename(old)
            part.rename(directory)
            shutil.rmtree(old)
        else:
            part.rename(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk: without it a power cut may undo a rename."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
