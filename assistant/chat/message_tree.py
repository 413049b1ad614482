"""A conversation as a tree in the tables of a history: messages, their versions, the images that they show."""

import base64
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage, HumanMessage

from fourfold.assistant.chat.stored_message import from_row
from fourfold.assistant.images import Attachment
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
    """
    ALTER TABLE conversations ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;  -- grows with every change
    -- Messages that follow the same one are versions, of which one is shown. `position` is a message's name in its
    -- conversation: later ones have higher numbers.
    ALTER TABLE messages ADD COLUMN parent INTEGER;  -- position of the message that it follows; NULL: it is the first
    ALTER TABLE messages ADD COLUMN shown INTEGER NOT NULL DEFAULT 1;
    UPDATE messages SET parent = (
        SELECT max(earlier.position) FROM messages AS earlier
        WHERE earlier.conversation = messages.conversation AND earlier.position < messages.position
    );
    CREATE INDEX messages_of_parent ON messages (conversation, parent);
    """,
)


@dataclass(frozen=True)
class ConversationInfo:
    """What a list of conversations shows."""

    id: str  # a random name
    title: str  # given by `rename`, otherwise the first words of the first question
    created: float  # seconds since 1970
    updated: float
    messages: int  # earlier versions among them
    revision: int = 0  # grows with every change


@dataclass(frozen=True)
class StoredMessage:
    """A message of a conversation, in one of its versions.

    Attributes:
        number: by which the conversation knows it; later ones have higher numbers.
        parent: number of the message that it follows; None for a first one. Messages with one parent are versions.
        shown: whether it is the version that is shown where its parent is.
        created: seconds since 1970.
    """

    number: int
    parent: int | None
    shown: bool
    created: float
    message: BaseMessage


def path_of(versions: Sequence[StoredMessage]) -> list[StoredMessage]:
    """What is shown of a conversation's messages: the first that is, what follows it, and so on."""
    following = {stored.parent: stored for stored in versions if stored.shown}
    path: list[StoredMessage] = []
    while (after := following.pop(path[-1].number if path else None, None)) is not None:
        path.append(after)
    return path


INFO = """
SELECT id, title, created, updated, (SELECT count(*) FROM messages WHERE conversation = id), revision
FROM conversations"""


def info_of(connection: sqlite3.Connection, conversation: str) -> ConversationInfo:
    row = connection.execute(f"{INFO} WHERE id = ?", (conversation,)).fetchone()
    if row is None:
        raise UserError(f"there is no conversation {conversation!r}; it may have been deleted")
    return ConversationInfo(*row)


def existing(connection: sqlite3.Connection, conversation: str, number: int) -> int:
    """The number of a message that is there; else a UserError."""
    info_of(connection, conversation)
    query = "SELECT position FROM messages WHERE conversation = ? AND position = ?"
    if connection.execute(query, (conversation, number)).fetchone() is None:
        raise UserError(f"the conversation has no message {number}; it may have been deleted")
    return number


def shown_numbers(connection: sqlite3.Connection, conversation: str) -> list[int]:
    """Numbers of the messages that are shown, in order."""
    rows = connection.execute(
        """
        WITH RECURSIVE path (number, depth) AS (
            SELECT position, 0 FROM messages WHERE conversation = ?1 AND parent IS NULL AND shown
            UNION ALL
            SELECT position, depth + 1 FROM messages JOIN path ON parent = number WHERE conversation = ?1 AND shown
        )
        SELECT number FROM path ORDER BY depth
        """,
        (conversation,),
    )
    return [number for (number,) in rows]


def insert(
    connection: sqlite3.Connection,
    conversation: str,
    parent: int | None,
    body: str,
    images: Sequence[Attachment],
    words: str,
) -> int:
    """Add a message and show it in place of its other versions; its number."""
    connection.execute(
        "UPDATE messages SET shown = 0 WHERE conversation = ? AND parent IS ? AND shown", (conversation, parent)
    )
    [(number,)] = connection.execute(
        "SELECT coalesce(max(position) + 1, 0) FROM messages WHERE conversation = ?", (conversation,)
    )
    connection.execute(
        "INSERT INTO messages (conversation, position, body, words, created, parent) VALUES (?, ?, ?, ?, ?, ?)",
        (conversation, number, body, words.casefold(), time.time(), parent),
    )
    use_images(connection, conversation, number, images)
    return number


def use_images(connection: sqlite3.Connection, conversation: str, number: int, images: Sequence[Attachment]) -> None:
    for image in images:
        row = image.sha256, image.media_type, image.content
        connection.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", row)
        connection.execute("INSERT OR IGNORE INTO uses VALUES (?, ?, ?)", (image.sha256, conversation, number))


def touch(connection: sqlite3.Connection, conversation: str, *, used: bool = False) -> None:
    """Tell everybody that a conversation has changed; `used`: that something was said in it."""
    connection.execute(
        "UPDATE conversations SET revision = revision + 1, updated = iif(?, ?, updated) WHERE id = ?",
        (used, time.time(), conversation),
    )


def drop_unused_images(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM images WHERE sha256 NOT IN (SELECT image FROM uses)")


def read_versions(connection: sqlite3.Connection, conversation: str) -> list[StoredMessage]:
    rows = connection.execute(
        "SELECT position, parent, shown, created, body FROM messages WHERE conversation = ? ORDER BY position",
        (conversation,),
    ).fetchall()
    images = connection.execute(
        "SELECT sha256, media_type, data FROM images WHERE sha256 IN (SELECT image FROM uses WHERE conversation = ?)",
        (conversation,),
    )
    uris = {
        f"sha256:{sha256}": f"data:{kind};base64,{base64.b64encode(data).decode()}" for sha256, kind, data in images
    }
    asked: dict[int | None, bool] = {None: False}
    found = []
    for number, parent, shown, created, body in rows:
        message = from_row(body, uris, asked=not asked.get(parent, False))
        asked[number] = isinstance(message, HumanMessage)
        found.append(StoredMessage(number, parent, bool(shown), created, message))
    return found
