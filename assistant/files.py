"""Files and directories that appear whole or not at all."""

import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_NO_ROOM = 64 * 2**10  # bytes; below it a library's error is taken for the disk's


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

    After an error nothing is left of it, and `path` is as it was. What a process that was killed left of one is removed
    by the next that comes to its end.

    Raises:
        OSError: it cannot be written; nothing changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        part.touch(exist_ok=False)
        with _held(part):
            with _disk_errors(path):
                yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    _remove_abandoned(path.parent, rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}{re.escape(path.suffix)}")


@contextlib.contextmanager
def building(directory: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty directory beside `directory`, which takes its name at the end; after an error nothing is left of it.

    What a process that was killed left of one is removed by the next that comes to its end.

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
        with _held(part):
            with _disk_errors(directory):
                yield part
            for path in part.iterdir():
                if path.is_file():
                    path.chmod(0o644)
            part.chmod(0o755)
            if replace and directory.exists():
                old = part.with_name(f"{part.name}.old")
                directory.rename(old)
                part.rename(directory)
                shutil.rmtree(old, ignore_errors=True)  # another that came to its end may be removing it, too
            else:
                part.rename(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_directory(directory.parent)
    _remove_abandoned(directory.parent, rf"\.{re.escape(directory.name)}\.building-\w+(\.old)?")


def disk_error(error: OSError) -> str | None:
    """What to do about a disk that takes no more, in one sentence; None for other errors."""
    what = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
    advice = {
        **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, and run the same command again"),
        **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "name another place, or make it yours to write"),
        errno.EIO: "look after the disk",
    }.get(error.errno or 0)
    return advice and f"{what} ({os.strerror(error.errno or 0).lower()}); what was kept before is whole; {advice}"


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk: without it a power cut may undo a rename."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Errors of a full disk, and of one that is closed to writing, as OSErrors: torch and safetensors have others."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if sys.platform != "win32":
            disk = os.statvfs(path.parent)
            number = errno.EROFS if disk.f_flag & os.ST_RDONLY else errno.ENOSPC
            if number == errno.EROFS or disk.f_bavail * disk.f_frsize < _NO_ROOM:
                raise OSError(number, os.strerror(number), str(path)) from error
        raise


@contextlib.contextmanager
def _held(part: Path) -> Iterator[None]:
    """Lock a part while it is written. The lock is the kernel's: it goes with the process that held it."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(part, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_abandoned(directory: Path, pattern: str) -> None:
    """Remove parts of that name which no process holds. None of them is needed any more; failing here loses nothing."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(directory)):
            # One that was made this moment is about to be locked.
            if not re.fullmatch(pattern, entry.name) or time.time() - entry.stat().st_mtime < 1:
                continue
            with contextlib.suppress(OSError):
                handle = os.open(entry.path, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry.path) if entry.is_dir() else Path(entry.path).unlink()
                finally:
                    os.close(handle)
