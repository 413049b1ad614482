"""Conversations kept in one SQLite file: they survive restarts, crashes and writers beside each other."""

import contextlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from langchain_core.messages import BaseMessage, HumanMessage

from fourfold.assistant.chat.message_tree import (
    INFO,
    MIGRATIONS,
    ConversationInfo,
    StoredMessage,
    drop_unused_images,
    existing,
    info_of,
    insert,
    path_of,
    read_versions,
    shown_numbers,
    touch,
    use_images,
)
from fourfold.assistant.chat.stored_message import from_row, to_row, words_of
from fourfold.assistant.database import Database, data_directory
from fourfold.assistant.unicode import well_formed
from fourfold.prompts.errors import UserError


def default_path() -> Path:
    return data_directory() / "history.sqlite"


class ChatHistory:
    """Several conversations in the SQLite file `path`, made where there is none.

    A conversation is a tree: where a question was asked again or an answer given anew there are several versions, of
    which one is shown, with what followed it. `messages` reads what is shown, `versions` everything.

    Every call opens its own connection, so one object may be used from any thread, and any number of processes may
    write to one file. A call that writes is one transaction: after a crash or on a full disk its messages are all there
    or none is. The file is readable by its owner only.

    Raises (every method):
        UserError: the file cannot be opened, is no history, was made by a newer version, or its disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._database = Database(path, MIGRATIONS, "history")
        self._last_read: tuple[ConversationInfo, list[StoredMessage]] | None = None

    def create(self, title: str = "") -> str:
        """Start a conversation; its id. Without a title it takes the first words of the first question."""
        name, now = uuid.uuid4().hex, time.time()
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO conversations (id, title, created, updated) VALUES (?, ?, ?, ?)",
                (name, well_formed(title).strip(), now, now),
            )
        return name

    def conversations(self, search: str = "") -> list[ConversationInfo]:
        """All, the last used first; with `search` only those whose title or text holds it, in upper or lower case."""
        wanted = well_formed(search).casefold()
        with self._database.connection() as connection:
            rows = connection.execute(
                f"""{INFO}
                WHERE ?1 = '' OR instr(casefold(title), ?1)
                    OR EXISTS (SELECT 1 FROM messages WHERE conversation = id AND instr(words, ?1))
                ORDER BY updated DESC, id
                """,
                (wanted,),
            ).fetchall()
        return [ConversationInfo(*row) for row in rows]

    def info(self, conversation: str) -> ConversationInfo:
        """Title and times of one conversation.

        Raises:
            UserError: there is none with this id.
        """
        with self._database.connection() as connection:
            return info_of(connection, conversation)

    def rename(self, conversation: str, title: str) -> None:
        """Give it another title.

        Raises:
            UserError: there is none with this id, or the title is empty.
        """
        if not title.strip():
            raise UserError("a conversation needs a title that is not empty")
        with self._database.transaction() as connection:
            info_of(connection, conversation)
            connection.execute(
                "UPDATE conversations SET title = ?, revision = revision + 1 WHERE id = ?",
                (well_formed(title).strip(), conversation),
            )

    def messages(self, conversation: str) -> list[BaseMessage]:
        """What is shown, in order, with the images back in place as data URIs.

        A message that cannot be read stands there empty and says why (`stored_message.UNREADABLE`).

        Raises:
            UserError: there is none with this id.
        """
        # Long strings are shared, not copied.
        return [stored.message.model_copy(deep=True) for stored in path_of(self.versions(conversation))]

    def versions(self, conversation: str) -> list[StoredMessage]:
        """Every message in every version, in the order in which they came; `path_of` finds what is shown.

        The conversation that was read last is kept, and read again only once it has changed. Its messages are not to
        be changed.

        Raises:
            UserError: there is none with this id.
        """
        with self._database.connection() as connection:
            connection.execute("BEGIN")  # so that messages and images are of one moment
            info = info_of(connection, conversation)
            known = self._last_read
            if known is None or known[0] != info:
                known = self._last_read = info, read_versions(connection, conversation)
        return list(known[1])

    def append(
        self, conversation: str, messages: Sequence[BaseMessage], keep: int | None = None, *, after: int | None = None
    ) -> int | None:
        """Add messages, all or none. An image that is stored already is not stored again.

        Args:
            conversation: its id.
            messages: to add.
            keep: number of messages that are shown and stay so; the new ones are another version of what followed. None
                for all of them.
            after: number of the message that they follow instead, whether it is shown or not.

        Returns:
            The number of the last one; of the message that they would follow where there are none.

        Raises:
            UserError: there is no such conversation or no such message, or an image of a message is none.
        """
        rows = [(*to_row(message), words_of(message)) for message in messages]
        with self._database.transaction() as connection:
            info_of(connection, conversation)
            if after is None:
                shown = shown_numbers(connection, conversation)[:keep]
                parent = shown[-1] if shown else None
            else:
                parent = existing(connection, conversation, after)
            for body, images, words in rows:
                parent = insert(connection, conversation, parent, body, images, words)
            questions = [row[2] for m, row in zip(messages, rows, strict=True) if isinstance(m, HumanMessage)]
            if title := next((" ".join(words.split())[:60] for words in questions if words.strip()), ""):
                connection.execute(
                    "UPDATE conversations SET title = ? WHERE id = ? AND title = ''", (title, conversation)
                )
            touch(connection, conversation, used=True)
        return parent

    def show(self, conversation: str, number: int) -> None:
        """Show a message in place of its other versions, with what followed it.

        Raises:
            UserError: there is no such conversation or no such message.
        """
        with self._database.transaction() as connection:
            existing(connection, conversation, number)
            connection.execute(
                "UPDATE messages SET shown = (position = ?2) WHERE conversation = ?1 AND parent IS "
                "(SELECT parent FROM messages WHERE conversation = ?1 AND position = ?2)",
                (conversation, number),
            )
            touch(connection, conversation)

    def replace(self, conversation: str, number: int, message: BaseMessage) -> None:
        """Write a message anew in its place; what it was is gone, what followed it stays.

        Raises:
            UserError: there is no such conversation or no such message, or an image of the message is none.
        """
        body, images = to_row(message)
        with self._database.transaction() as connection:
            existing(connection, conversation, number)
            connection.execute(
                "UPDATE messages SET body = ?, words = ? WHERE conversation = ? AND position = ?",
                (body, words_of(message).casefold(), conversation, number),
            )
            connection.execute("DELETE FROM uses WHERE conversation = ? AND position = ?", (conversation, number))
            use_images(connection, conversation, number, images)
            drop_unused_images(connection)
            touch(connection, conversation)
        self._database.empty_log()

    def supersede(self, conversation: str, number: int, message: BaseMessage) -> int:
        """Show a new version in place of a message; what followed that one follows the new one from now on.

        Returns:
            The number of the new one.

        Raises:
            UserError: there is no such conversation or no such message, or an image of the message is none.
        """
        body, images = to_row(message)
        with self._database.transaction() as connection:
            existing(connection, conversation, number)
            [(parent,)] = connection.execute(
                "SELECT parent FROM messages WHERE conversation = ? AND position = ?", (conversation, number)
            )
            new = insert(connection, conversation, parent, body, images, words_of(message))
            connection.execute(
                "UPDATE messages SET parent = ? WHERE conversation = ? AND parent = ?", (new, conversation, number)
            )
            touch(connection, conversation)
        return new

    def withdraw(self, conversation: str, number: int) -> None:
        """Drop one version for good like `delete`; what followed it follows the version before it.

        Raises:
            UserError: there is no such conversation or no such message, or the message has no other version.
        """
        with self._database.transaction() as connection:
            existing(connection, conversation, number)
            others = connection.execute(
                "SELECT position, shown FROM messages WHERE conversation = ?1 AND position != ?2 AND parent IS "
                "(SELECT parent FROM messages WHERE conversation = ?1 AND position = ?2) ORDER BY position",
                (conversation, number),
            ).fetchall()
            if not others:
                raise UserError("the only version of a message cannot be withdrawn")
            heir = max((other for other, _ in others if other < number), default=others[0][0])
            followed = "SELECT 1 FROM messages WHERE conversation = ? AND parent = ? AND shown"
            if connection.execute(followed, (conversation, number)).fetchone():
                connection.execute(
                    "UPDATE messages SET shown = 0 WHERE conversation = ? AND parent = ?", (conversation, heir)
                )
            connection.execute(
                "UPDATE messages SET parent = ? WHERE conversation = ? AND parent = ?", (heir, conversation, number)
            )
            connection.execute("DELETE FROM messages WHERE conversation = ? AND position = ?", (conversation, number))
            if not any(shown for _, shown in others):
                connection.execute(
                    "UPDATE messages SET shown = 1 WHERE conversation = ? AND position = ?", (conversation, heir)
                )
            drop_unused_images(connection)
            touch(connection, conversation)
        self._database.scrub()

    def find(self, key: str, value: str) -> list[tuple[str, int]]:
        """Conversations and numbers of the messages whose `response_metadata["fourfold"]` has this value."""
        with self._database.connection() as connection:
            rows = connection.execute(
                "SELECT conversation, position, body FROM messages WHERE instr(body, ?)", (value,)
            )
            told = [(row, from_row(row[2], {}, asked=False).response_metadata.get("fourfold")) for row in rows]
        return [row[:2] for row, found in told if isinstance(found, dict) and found.get(key) == value]

    def delete(self, conversation: str) -> None:
        """Delete a conversation for good: its text in all versions, and its images unless another one shows them.

        What was deleted is overwritten in the file (`secure_delete`), the file shrinks, and the write-ahead log is
        emptied, if need be once others have done reading (`Database.scrub`).

        Raises:
            UserError: there is none with this id.
        """
        self._last_read = None
        with self._database.transaction() as connection:
            info_of(connection, conversation)
            connection.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
            drop_unused_images(connection)
        self._database.scrub()


class InMemoryHistory(ChatHistory):
    """A history that is never written down: with the object, what was said is gone."""

    def __init__(self) -> None:
        self.path = Path(":memory:")
        self._database = _InMemoryDatabase(MIGRATIONS)
        self._last_read = None


class _InMemoryDatabase(Database):
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
