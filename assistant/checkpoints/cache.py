"""Where downloads and assembled checkpoints lie on this machine."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from fourfold.assistant.progress import OnProgress, Progress
from fourfold.prompts.errors import UserError


def cache_directory() -> Path:
    """`$FOURFOLD_CACHE`, else the system's folder for caches (Linux: `$XDG_CACHE_HOME/fourfold`, `~/.cache/fourfold`).

    It need not exist yet.
    """
    if chosen := os.environ.get("FOURFOLD_CACHE"):
        return Path(chosen).expanduser().absolute()
    return user_cache_path("fourfold", appauthor=False).expanduser().absolute()


def is_offline() -> bool:
    """Whether `FOURFOLD_OFFLINE` forbids the network."""
    return os.environ.get("FOURFOLD_OFFLINE", "").lower() not in ("", "0", "false", "no")


@contextmanager
def locked(path: Path, on_progress: OnProgress) -> Iterator[None]:
    """Hold the lock beside `path`, waiting for it as long as another process is at work there.

    The system frees the lock when its process dies, so a killed one never blocks the next.

    Args:
        path: what is being made; its parent is made if need be.
        on_progress: told when there is something to wait for.

    Raises:
        UserError: the lock cannot be written there.
    """
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.parent / f".{path.name}.lock")
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            what = "Waiting for another fourfold that is at this"
            on_progress(Progress(what, 0, 1))
            lock.acquire()
            on_progress(Progress(what, 1, 1))
    try:
        yield
    finally:
        lock.release()


@contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Turn "disk full" and "not allowed" under `directory` into one line that says what to do.

    Raises:
        UserError: the disk is full, or the place cannot be used.
    """
    elsewhere = "or set FOURFOLD_CACHE to a directory elsewhere"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk is full at {directory}; free some space, {elsewhere}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"{directory} cannot be used ({error.strerror}); make it yours, {elsewhere}") from error
        raise


def check_room(directory: Path, needed: int, what: str) -> None:
    """See that `needed` bytes are free where `directory` lies.

    Raises:
        UserError: they are not; `what` begins the message.
    """
    if (free := shutil.disk_usage(directory).free) < needed:
        raise UserError(
            f"{what} needs {needed / 1e6:.0f} MB at {directory}, where {free / 1e6:.0f} MB are free; free some space, "
            "or set FOURFOLD_CACHE to a directory elsewhere"
        )
