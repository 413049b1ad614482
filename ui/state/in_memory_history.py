"""Conversations that are never written down, for the switch that keeps nothing."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from fourfold.assistant.chat.history import MIGRATIONS, ChatHistory
from fourfold.assistant.database import Database


class InMemoryHistory(ChatHistory):
    """A history in memory only: with the object, what was said is gone."""

    def __init__(self) -> None:
        self.path = Path(":memory:")
        self._database = _Memory(MIGRATIONS)


class _Memory(Database):
    """The same database with the same rules, held by one connection instead of a file."""

    def __init__(self, migrations: Sequence[str]) -> None:
        self.path = Path(":memory:")
        self._migrations = migrations
        self._noun = "conversation"
        self._lock = threading.RLock()
        self._only = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._only.create_function("casefold", 1, str.casefold, deterministic=True)
        for pragma in ("foreign_keys = ON", "temp_store = MEMORY"):  # SQLite's helper files stay off the disk too
            self._only.execute(f"PRAGMA {pragma}")
        with self.connection() as connection:
            self._migrate(connection)

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """The one connection, by one thread at a time."""
        with self._lock:
            try:
                yield self._only
            finally:
                if self._only.in_transaction:  # a reader that held several statements together
                    self._only.execute("ROLLBACK")
