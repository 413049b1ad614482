"""Conversations kept in one SQLite file: they survive restarts, crashes and writers beside each other."""

import hashlib
import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, message_to_dict, messages_from_dict

from fourfold.assistant.data_uri import from_data_uri, media_type, to_data_uri
from fourfold.assistant.database import Database, data_directory
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
    """What a list of conversations shows.

    Attributes:
        id: a random name.
        title: given by `rename`, otherwise the first words of the first question.
        created, updated: seconds since 1970.
        messages: how many it holds.
    """

    id: str
    title: str
    created: float
    updated: float
    messages: int


def default_path() -> Path:
    """`history.sqlite` in the user's data directory."""
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
                """
                SELECT id, title, created, updated, (SELECT count(*) FROM messages WHERE conversation = id)
                FROM conversations
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
        for info in self.conversations():
            if info.id == conversation:
                return info
        raise UserError(f"there is no conversation {conversation!r}; it may have been deleted")

    def rename(self, conversation: str, title: str) -> None:
        """Give it another title.

        Raises:
            UserError: there is none with this id, or the title is empty.
        """
        if not title.strip():
            raise UserError("a conversation needs a title that is not empty")
        with self._database.transaction() as connection:
            self._require(connection, conversation)
            connection.execute("UPDATE conversations SET title = ? WHERE id = ?", (_clean(title).strip(), conversation))

    def messages(self, conversation: str) -> list[BaseMessage]:
        """What was said, in order, with the images back in place as data URIs.

        Raises:
            UserError: there is none with this id.
        """
        with self._database.connection() as connection:
            connection.execute("BEGIN")  # so that messages and images are of one moment
            self._require(connection, conversation)
            rows = connection.execute(
                "SELECT body FROM messages WHERE conversation = ? ORDER BY position", (conversation,)
            ).fetchall()
            images = connection.execute(
                "SELECT sha256, data FROM images WHERE sha256 IN (SELECT image FROM uses WHERE conversation = ?)",
                (conversation,),
            )
            uris = {f"sha256:{sha256}": to_data_uri(data) for sha256, data in images}
        return [_restored(json.loads(body), uris) for (body,) in rows]

    def append(self, conversation: str, messages: Sequence[BaseMessage]) -> None:
        """Add messages at the end, all or none. An image that is stored already is not stored again.

        Raises:
            UserError: there is no such conversation, or an image of a message is none.
        """
        stored = [_stored(message) for message in messages]
        words = [_words(message) for message in messages]
        now = time.time()
        with self._database.transaction() as connection:
            self._require(connection, conversation)
            (position,) = connection.execute(
                "SELECT coalesce(max(position) + 1, 0) FROM messages WHERE conversation = ?", (conversation,)
            ).fetchone()
            for number, ((body, images), text) in enumerate(zip(stored, words, strict=True), start=position):
                connection.execute(
                    "INSERT INTO messages VALUES (?, ?, ?, ?, ?)", (conversation, number, body, text.casefold(), now)
                )
                for sha256, data in images.items():
                    connection.execute(
                        "INSERT OR IGNORE INTO images VALUES (?, ?, ?)", (sha256, media_type(data), data)
                    )
                    connection.execute("INSERT OR IGNORE INTO uses VALUES (?, ?, ?)", (sha256, conversation, number))
            questions = [t for m, t in zip(messages, words, strict=True) if isinstance(m, HumanMessage) and t.strip()]
            if questions:
                title = " ".join(questions[0].split())[:60]
                connection.execute(
                    "UPDATE conversations SET title = ? WHERE id = ? AND title = ''", (title, conversation)
                )
            connection.execute("UPDATE conversations SET updated = ? WHERE id = ?", (now, conversation))

    def cut(self, conversation: str, keep: int) -> None:
        """Drop every message after the first `keep`, for asking again from there; dropped for good like `delete`.

        Raises:
            UserError: there is no such conversation.
        """
        with self._database.transaction() as connection:
            self._require(connection, conversation)
            connection.execute("DELETE FROM messages WHERE conversation = ? AND position >= ?", (conversation, keep))
            self._drop_unused_images(connection)
        self._database.scrub()

    def delete(self, conversation: str) -> None:
        """Delete a conversation for good: its text, and its images unless another conversation shows them.

        What was deleted is overwritten in the file (`secure_delete`), the file shrinks, and the write-ahead log is
        emptied, if need be once others have done reading (`Database.scrub`).

        Raises:
            UserError: there is none with this id.
        """
        with self._database.transaction() as connection:
            self._require(connection, conversation)
            connection.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
            self._drop_unused_images(connection)
        self._database.scrub()

    @staticmethod
    def _require(connection: sqlite3.Connection, conversation: str) -> None:
        if not connection.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation,)).fetchone():
            raise UserError(f"there is no conversation {conversation!r}; it may have been deleted")

    @staticmethod
    def _drop_unused_images(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM images WHERE sha256 NOT IN (SELECT image FROM uses)")


def _stored(message: BaseMessage) -> tuple[str, dict[str, bytes]]:
    """JSON of a message without its images, and the images by hash."""
    images: dict[str, bytes] = {}

    def keep(uri: Any) -> Any:
        if not (isinstance(uri, str) and uri.startswith("data:")):
            return uri
        data = from_data_uri(uri)
        sha256 = hashlib.sha256(data).hexdigest()
        images[sha256] = data
        return f"sha256:{sha256}"

    body = message_to_dict(message)
    body["data"]["content"] = _map_urls(body["data"]["content"], keep)
    return json.dumps(body), images


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
