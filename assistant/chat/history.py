"""Conversations kept in one SQLite file: they survive restarts, crashes and writers beside each other."""

import base64
import contextlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, message_to_dict, messages_from_dict

from fourfold.assistant.database import Database, data_directory
from fourfold.assistant.images import Attachment, ImageLimits
from fourfold.prompts.errors import UserError

# One script a schema version; a file is brought up to date by those it lacks. Never change one that was released.
MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY,
        title TEXT NOT NULL,
        created REAL NOT NULL,  -- seconds since 1970
        updated REAL NOT NULL
    );
    CREATE TABLE images (
        sha256 TEXT PRIMARY KEY,
        media_type TEXT NOT NULL,
        data BLOB NOT NULL
    );
    CREATE TABLE messages (
        conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
        position INTEGER NOT NULL,
        body TEXT NOT NULL,  -- JSON of a LangChain message; its images stand there as "sha256:..."
        words TEXT NOT NULL,  -- its plain text, case-folded, for searching
        created REAL NOT NULL,
        PRIMARY KEY (conversation, position)
    );
    """,
    """
    CREATE TABLE uses (  -- which message shows which image, so that an image goes with its last message
        image TEXT NOT NULL REFERENCES images,
        conversation TEXT NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (image, conversation, position),
        FOREIGN KEY (conversation, position) REFERENCES messages ON DELETE CASCADE
    );
    CREATE INDEX uses_of_message ON uses (conversation, position);
    INSERT OR IGNORE INTO uses
        SELECT images.sha256, messages.conversation, messages.position FROM messages, images
        WHERE instr(messages.body, 'sha256:' || images.sha256);
    """,
)


@dataclass(frozen=True)
class ConversationInfo:
    """What a list of conversations shows."""

    id: str  # a random name
    title: str  # given by `rename`, otherwise the first words of the first question
    created: float  # seconds since 1970
    updated: float
    messages: int


def default_path() -> Path:
    return data_directory() / "history.sqlite"


class ChatHistory:
    """Several conversations in the SQLite file `path`, made where there is none.

    Every call opens its own connection, so one object may be used from any thread, and any number of processes may
    write to one file. A call that writes is one transaction: after a crash or on a full disk its messages are all there
    or none is. The file is readable by its owner only.

    Raises (every method):
        UserError: the file cannot be opened, is no history, was made by a newer version, or its disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._database = Database(path, MIGRATIONS, "history")
        self._last_read: tuple[ConversationInfo, list[BaseMessage]] | None = None

    def create(self, title: str = "") -> str:
        """Start a conversation; its id. Without a title it takes the first words of the first question."""
        name, now = uuid.uuid4().hex, time.time()
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO conversations VALUES (?, ?, ?, ?)", (name, _clean(title).strip(), now, now))
        return name

    def conversations(self, search: str = "") -> list[ConversationInfo]:
        """All, the last used first; with `search` only those whose title or text holds it, in upper or lower case."""
        wanted = _clean(search).casefold()
        with self._database.connection() as connection:
            rows = connection.execute(
                f"""{_INFO}
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
            return _info(connection, conversation)

    def rename(self, conversation: str, title: str) -> None:
        """Give it another title.

        Raises:
            UserError: there is none with this id, or the title is empty.
        """
        if not title.strip():
            raise UserError("a conversation needs a title that is not empty")
        with self._database.transaction() as connection:
            _info(connection, conversation)
            connection.execute("UPDATE conversations SET title = ? WHERE id = ?", (_clean(title).strip(), conversation))

    def messages(self, conversation: str) -> list[BaseMessage]:
        """What was said, in order, with the images back in place as data URIs.

        The conversation that was read last is kept, and read again only once it has changed.

        Raises:
            UserError: there is none with this id.
        """
        with self._database.connection() as connection:
            connection.execute("BEGIN")  # so that messages and images are of one moment
            info = _info(connection, conversation)
            known = self._last_read
            if known is None or known[0] != info:
                known = self._last_read = info, _read(connection, conversation)
        return [message.model_copy(deep=True) for message in known[1]]  # long strings are shared, not copied

    def append(self, conversation: str, messages: Sequence[BaseMessage], keep: int | None = None) -> None:
        """Add messages, all or none. An image that is stored already is not stored again.

        Args:
            conversation: its id.
            messages: to add.
            keep: messages of the conversation that stay; the new ones replace what followed, which is dropped for good
                like `delete`. None for all of them.

        Raises:
            UserError: there is no such conversation, or an image of a message is none.
        """
        stored = [_stored(message) for message in messages]
        words = [_words(message) for message in messages]
        now = time.time()
        with self._database.transaction() as connection:
            count = _info(connection, conversation).messages
            position = count if keep is None else min(keep, count)
            dropped = position < count
            if dropped:
                connection.execute(
                    "DELETE FROM messages WHERE conversation = ? AND position >= ?", (conversation, position)
                )
            for number, ((body, images), text) in enumerate(zip(stored, words, strict=True), start=position):
                connection.execute(
                    "INSERT INTO messages VALUES (?, ?, ?, ?, ?)", (conversation, number, body, text.casefold(), now)
                )
                for image in images:
                    row = image.sha256, image.media_type, image.content
                    connection.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", row)
                    connection.execute(
                        "INSERT OR IGNORE INTO uses VALUES (?, ?, ?)", (image.sha256, conversation, number)
                    )
            if dropped:
                _drop_unused_images(connection)
            questions = [t for m, t in zip(messages, words, strict=True) if isinstance(m, HumanMessage) and t.strip()]
            if questions:
                title = " ".join(questions[0].split())[:60]
                connection.execute(
                    "UPDATE conversations SET title = ? WHERE id = ? AND title = ''", (title, conversation)
                )
            connection.execute("UPDATE conversations SET updated = ? WHERE id = ?", (now, conversation))
        if dropped:
            self._database.scrub()

    def cut(self, conversation: str, keep: int) -> None:
        """Drop every message after the first `keep`, for asking again from there; dropped for good like `delete`.

        Raises:
            UserError: there is no such conversation.
        """
        self.append(conversation, [], keep)

    def delete(self, conversation: str) -> None:
        """Delete a conversation for good: its text, and its images unless another conversation shows them.

        What was deleted is overwritten in the file (`secure_delete`), the file shrinks, and the write-ahead log is
        emptied, if need be once others have done reading (`Database.scrub`).

        Raises:
            UserError: there is none with this id.
        """
        self._last_read = None
        with self._database.transaction() as connection:
            _info(connection, conversation)
            connection.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
            _drop_unused_images(connection)
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


_INFO = """
SELECT id, title, created, updated, (SELECT count(*) FROM messages WHERE conversation = id) FROM conversations"""


def _info(connection: sqlite3.Connection, conversation: str) -> ConversationInfo:
    row = connection.execute(f"{_INFO} WHERE id = ?", (conversation,)).fetchone()
    if row is None:
        raise UserError(f"there is no conversation {conversation!r}; it may have been deleted")
    return ConversationInfo(*row)


def _drop_unused_images(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM images WHERE sha256 NOT IN (SELECT image FROM uses)")


def _read(connection: sqlite3.Connection, conversation: str) -> list[BaseMessage]:
    rows = connection.execute(
        "SELECT body FROM messages WHERE conversation = ? ORDER BY position", (conversation,)
    ).fetchall()
    images = connection.execute(
        "SELECT sha256, media_type, data FROM images WHERE sha256 IN (SELECT image FROM uses WHERE conversation = ?)",
        (conversation,),
    )
    uris = {
        f"sha256:{sha256}": f"data:{kind};base64,{base64.b64encode(data).decode()}" for sha256, kind, data in images
    }
    return [_restored(json.loads(body), uris) for (body,) in rows]


def _stored(message: BaseMessage) -> tuple[str, list[Attachment]]:
    """JSON of a message without its images, and the images."""
    images: list[Attachment] = []

    def keep(uri: Any) -> Any:
        if not (isinstance(uri, str) and uri.startswith("data:")):
            return uri
        images.append(image_of(uri))
        return f"sha256:{images[-1].sha256}"

    body = message_to_dict(message)
    body["data"]["content"] = _map_urls(body["data"]["content"], keep)
    return json.dumps(body), images


def image_of(uri: str) -> Attachment:
    """The image of a data URI in a message; of any size, because what is stored was let in when it came.

    Raises:
        UserError: it is none.
    """
    return Attachment.from_data_uri(uri, "an image in a message", ImageLimits(bytes=2**30))


def _restored(body: dict[str, Any], uris: dict[str, str]) -> BaseMessage:
    body["data"]["content"] = _map_urls(body["data"]["content"], lambda url: uris.get(url, url))
    return messages_from_dict([body])[0]


def _map_urls(content: Any, change: Any) -> Any:
    """Message content with `change` applied to the URL of every image part, in both shapes that clients write."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "image_url":
            link = part["image_url"]
            new = {**link, "url": change(link["url"])} if isinstance(link, dict) else change(link)
            part = {**part, "image_url": new}
        elif isinstance(part, dict) and part.get("type") == "image" and "base64" in part:
            # LangChain's own shape: stored and given back as an `image_url` part, which every endpoint reads.
            url = f"data:{part.get('mime_type', 'image/png')};base64,{part['base64']}"
            part = {"type": "image_url", "image_url": {"url": change(url)}}
        parts.append(part)
    return parts


def _words(message: BaseMessage) -> str:
    """The text of a message without its images."""
    if isinstance(message.content, str):
        return _clean(message.content)
    parts = (part if isinstance(part, str) else part.get("text", "") for part in message.content)
    return _clean("\n".join(part for part in parts if part))


def _clean(text: str) -> str:
    """Without lone surrogates, which SQLite cannot store."""
    return text.encode("utf-8", "replace").decode()
