"""The tables of a correction store, and what all that write to them have in common."""

import sqlite3
from collections.abc import Iterable

from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError

# One script a schema version; a file is brought up to date by those it lacks. Never change one that was released.
MIGRATIONS = (
    """
    CREATE TABLE images (
        sha256 TEXT PRIMARY KEY,
        data BLOB NOT NULL
    );
    CREATE TABLE marks (  -- the hashes by which an image is known, see `Attachment.hashes`
        image TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        mark TEXT NOT NULL,
        PRIMARY KEY (image, mark)
    );
    CREATE INDEX images_of_mark ON marks (mark);
    CREATE TABLE corrections (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        image TEXT NOT NULL REFERENCES images,
        verdict TEXT NOT NULL,
        consent INTEGER NOT NULL,
        fields TEXT NOT NULL  -- JSON of the record, see `record.to_fields`
    );
    CREATE INDEX corrections_of_image ON corrections (image);
    CREATE TABLE forgotten (  -- all that is left of a deleted record
        id TEXT PRIMARY KEY,
        time REAL NOT NULL
    );
    CREATE TABLE excluded (  -- images of benchmarks: nothing is learnt from them
        mark TEXT PRIMARY KEY,
        source TEXT NOT NULL,
        time REAL NOT NULL
    );
    """,
    """
    CREATE TABLE vectors (  -- what an image tower makes of an image
        image TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        encoder TEXT NOT NULL,
        vector BLOB NOT NULL,  -- little-endian float32
        PRIMARY KEY (image, encoder)
    );
    """,
    # Similar images are no longer looked for (docs/refinement.md).
    "DROP TABLE vectors;",
    """
    CREATE TABLE concept_examples (  -- things shown once, see `concepts.Example`
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        image TEXT NOT NULL REFERENCES images,
        boxes TEXT NOT NULL,  -- JSON [[x1, y1, x2, y2], ...]
        positive INTEGER NOT NULL,
        consent INTEGER NOT NULL,
        created REAL NOT NULL,
        correction TEXT REFERENCES corrections (id) ON DELETE CASCADE  -- it was made of; NULL: shown by itself
    );
    CREATE INDEX concept_examples_of_image ON concept_examples (image);
    CREATE INDEX concept_examples_of_correction ON concept_examples (correction);
    CREATE TABLE tower_features (  -- what an image tower makes of an image that shows a concept
        image TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        tower TEXT NOT NULL,  -- fingerprint of its weights
        rows INTEGER NOT NULL,
        columns INTEGER NOT NULL,
        data BLOB NOT NULL,  -- little-endian float16, (rows, columns, width)
        PRIMARY KEY (image, tower)
    );
    """,
    # To remember a correction and to train with it are two things; until now consent was for both.
    """
    ALTER TABLE corrections ADD COLUMN remember INTEGER NOT NULL DEFAULT 0;
    UPDATE corrections SET remember = consent;
    """,
)


def insert_image(connection: sqlite3.Connection, image: Attachment, image_hashes: Iterable[str]) -> None:
    """Keep an image file with the hashes by which its picture is known, unless it is there."""
    connection.execute("INSERT OR IGNORE INTO images VALUES (?, ?)", (image.sha256, image.content))
    rows = [(image.sha256, image_hash) for image_hash in sorted(image_hashes)]
    connection.executemany("INSERT OR IGNORE INTO marks VALUES (?, ?)", rows)


def refuse_excluded(connection: sqlite3.Connection, image_hashes: Iterable[str], name: str) -> None:
    """Raises UserError where the picture of these hashes is one of a benchmark."""
    for image_hash in image_hashes:
        row = connection.execute("SELECT source FROM excluded WHERE mark = ?", (image_hash,)).fetchone()
        if row is not None:
            raise UserError(f"{name} is an image of a benchmark ({row[0]}); learning from it would spoil the benchmark")


def delete_unused(connection: sqlite3.Connection) -> None:
    """Delete images that no record and no example has any more, and what was computed of examples that are gone."""
    connection.execute(
        "DELETE FROM images "
        "WHERE sha256 NOT IN (SELECT image FROM corrections UNION ALL SELECT image FROM concept_examples)"
    )
    connection.execute("DELETE FROM tower_features WHERE image NOT IN (SELECT image FROM concept_examples)")
