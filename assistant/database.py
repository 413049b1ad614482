"""A SQLite file of this user's own: migrations, writers beside each other, crashes, and deleting that deletes."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from platformdirs import user_data_path

from fourfold.prompts.errors import UserError


def data_directory() -> Path:
    """The system's folder for a user's own data (Linux: `$XDG_DATA_HOME/fourfold`, `~/.local/share/fourfold`)."""
    return user_data_path("fourfold", appauthor=False).expanduser()


class Database:
    """The SQLite file `path`, made where there is none and brought up to date where it is old.

    Every call opens its own connection, so one object may be used from any thread, and any number of processes may
    write to one file. The file is readable by its owner only.

    Args:
        path: the file; its directory is made as well.
        migrations: one script a schema version. Never change one that was released.
        noun: what messages call it, "history".

    Raises (every method):
        UserError: the file cannot be opened, is none of these, was made by a newer version, or its disk is full.
    """

    def __init__(self, path: str | Path, migrations: Sequence[str], noun: str) -> None:
        self.path = Path(path)
        self._migrations = migrations
        self._noun = noun
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite would create it readable by everybody; its -wal and -shm files take the mode of this one.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise UserError(f"the {noun} {self.path} cannot be opened ({error.strerror})") from None
        with self.connection() as connection:
            self._migrate(connection)

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """For reading; each statement sees the moment it runs in, unless a BEGIN holds several together."""
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            connection.create_function("casefold", 1, str.casefold, deterministic=True)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")
            yield connection
        except sqlite3.Error as error:
            raise UserError(self._explain(error)) from error
        finally:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """For writing: all of it or, after an error or a crash, none."""
        with self.connection() as connection:
            # Taking the lock at once makes a second writer wait here; taken later it could only fail.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def scrub(self) -> None:
        """Give free pages back and empty the log. The content is overwritten already, so failing here loses nothing.

        While another process reads, the log keeps its old pages until that reader is done; the next call or the last
        connection to close empties it then.
        """
        self._clean("VACUUM")
        self.empty_log()

    def empty_log(self) -> None:
        """Leave nothing of what was before in the log, as far as readers let it."""
        self._clean("PRAGMA wal_checkpoint(TRUNCATE)")

    def _clean(self, statement: str) -> None:
        with self.connection() as connection:
            connection.execute("PRAGMA busy_timeout = 1000")  # a reader may take its time
            with contextlib.suppress(sqlite3.OperationalError):  # another writer, or no room for the copy
                connection.execute(statement)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version > len(self._migrations) or (version == 0 and tables):
            connection.execute("ROLLBACK")
            why = "was made by a newer version of Fourfold" if version else "is a database of something else"
            raise UserError(f"{self.path} {why}; update Fourfold or name another file")
        for script in self._migrations[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(self._migrations)}")
        connection.execute("COMMIT")

    def _explain(self, error: sqlite3.Error) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        noun = self._noun
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return f"the {noun} {self.path} could not be written ({error}); is its disk full? Nothing was changed"
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return f"{self.path} is not a {noun}, or it is damaged ({error}); name another file"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"the {noun} {self.path} is in use by another program for too long; try again"
        return f"the {noun} {self.path} cannot be used ({error})"


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: `executescript` would commit the transaction before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
