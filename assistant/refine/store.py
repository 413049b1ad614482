"""Corrections and their images in one SQLite file: appended, listed, and forgotten for good."""

import hashlib
import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fourfold.assistant.database import Database, data_directory
from fourfold.assistant.refine.pictures import Picture, identify, read_image_file
from fourfold.assistant.refine.record import Correction, Verdict, check, from_fields, to_fields
from fourfold.prompts.errors import UserError

# One script a schema version; a file is brought up to date by those it lacks. Never change one that was released.
MIGRATIONS = (
    """
    CREATE TABLE images (
        sha256 TEXT PRIMARY KEY,
        data BLOB NOT NULL
    );
    CREATE TABLE marks (  -- the hashes by which an image is known, see `pictures`
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
    CREATE TABLE vectors (  -- what an image tower makes of an image, see `encoder`
        image TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        encoder TEXT NOT NULL,
        vector BLOB NOT NULL,  -- little-endian float32
        PRIMARY KEY (image, encoder)
    );
    """,
)


def default_directory() -> Path:
    """`refine` in the user's data directory."""
    return data_directory() / "refine"


@dataclass(frozen=True)
class Candidate:
    """A checked correction on its way into the store.

    Attributes:
        correction: with its id, time and image hash.
        picture: of its image.
        source: the image file's bytes, or where to read them again.
    """

    correction: Correction
    picture: Picture
    source: bytes | Path

    def read(self) -> bytes:
        """The image file's bytes."""
        return self.source if isinstance(self.source, bytes) else read_image_file(self.source)


class CorrectionStore:
    """The corrections of one user, in `corrections.sqlite` of a directory that is made where there is none.

    Safe with threads and processes that write beside each other: a call that writes is one transaction, so that after a
    crash or on a full disk all of it is there or nothing. Records are never changed; they are added and forgotten.

    Args:
        directory: of the store; `default_directory()` unless the user names another.

    Raises (every method):
        UserError: the store cannot be opened or written, or is none.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._database = Database(self.directory / "corrections.sqlite", MIGRATIONS, "correction store")

    def add(self, correction: Correction, image_bytes: bytes) -> Correction:
        """Keep a correction.

        Returns:
            The record as stored: with its id, image hash and time.

        Raises:
            UserError: it makes no sense, is known or was forgotten, or its image is none or one of a benchmark.
        """
        [added] = self.add_all([self.prepare(correction, image_bytes)])
        return added

    def prepare(self, correction: Correction, source: bytes | Path) -> Candidate:
        """Check a correction for `add_all` without storing it.

        Args:
            correction: id, image and created may be left for this to set.
            source: the image file's bytes or its path.

        Raises:
            UserError: as `add`, but that it is known or was forgotten.
        """
        check(correction)
        name = "the image" if isinstance(source, bytes) else str(source)
        picture = identify(source if isinstance(source, bytes) else read_image_file(source), name)
        if correction.image not in ("", picture.sha256):
            raise UserError(f"{name} is not the image of this record: its hash is {picture.sha256[:12]}…")
        with self._database.connection() as connection:
            self._refuse_excluded(connection, picture, name)
        plain = json.loads(json.dumps(to_fields(correction)))  # nobody else can change it any more
        whole = replace(
            from_fields(plain),
            image=picture.sha256,
            id=correction.id or uuid.uuid4().hex,
            created=float(correction.created) or time.time(),
        )
        return Candidate(whole, picture, source)

    def add_all(self, candidates: Sequence[Candidate]) -> list[Correction]:
        """Keep several corrections, all or none.

        Raises:
            UserError: one of them is known or was forgotten, or its image changed since or became excluded.
        """
        with self._database.transaction() as connection:
            for candidate in candidates:
                self._insert(connection, candidate)
        return [candidate.correction for candidate in candidates]

    def list(self, *, verdict: Verdict | None = None, consented: bool | None = None) -> list[Correction]:
        """The records in the order in which they came; None for no condition."""
        with self._database.connection() as connection:
            rows = connection.execute(
                """
                SELECT fields, image FROM corrections
                WHERE (?1 IS NULL OR verdict = ?1) AND (?2 IS NULL OR consent = ?2) ORDER BY position
                """,
                (verdict, consented),
            ).fetchall()
        return [from_fields(json.loads(fields), image) for fields, image in rows]

    def count(self, *, verdict: Verdict | None = None, consented: bool | None = None) -> int:
        """How many records there are; None for no condition."""
        with self._database.connection() as connection:
            [(count,)] = connection.execute(
                "SELECT count(*) FROM corrections WHERE (?1 IS NULL OR verdict = ?1) AND (?2 IS NULL OR consent = ?2)",
                (verdict, consented),
            )
        return count

    def get(self, id: str) -> Correction:
        """One record.

        Raises:
            UserError: there is none with this id.
        """
        with self._database.connection() as connection:
            row = connection.execute("SELECT fields, image FROM corrections WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise UserError(self._why_missing(connection, id))
        return from_fields(json.loads(row[0]), row[1])

    def image(self, sha256: str) -> bytes:
        """The bytes of a stored image file.

        Raises:
            UserError: no record has this image.
        """
        with self._database.connection() as connection:
            row = connection.execute("SELECT data FROM images WHERE sha256 = ?", (sha256,)).fetchone()
        if row is None:
            raise UserError(f"there is no image {sha256[:12]!r} in the store; its corrections may have been forgotten")
        return row[0]

    def forget(self, id: str) -> None:
        """Delete a record for good, and its image unless another record has it.

        What was deleted is overwritten in the file. Its id and the time stay, so that an import of an old export does
        not bring it back.

        Raises:
            UserError: there is none with this id.
        """
        with self._database.transaction() as connection:
            if not connection.execute("DELETE FROM corrections WHERE id = ?", (id,)).rowcount:
                raise UserError(self._why_missing(connection, id))
            connection.execute("INSERT INTO forgotten VALUES (?, ?)", (id, time.time()))
            connection.execute("DELETE FROM images WHERE sha256 NOT IN (SELECT image FROM corrections)")
        self._database.scrub()

    def forgotten(self) -> dict[str, float]:
        """Ids of the forgotten records, and when each was forgotten, in seconds since 1970."""
        with self._database.connection() as connection:
            return dict(connection.execute("SELECT id, time FROM forgotten ORDER BY time, id"))

    def exclude(self, pictures: Iterable[Picture], source: str) -> int:
        """Learn nothing from these images, now or later.

        Args:
            pictures: images of a benchmark.
            source: where they come from, for messages.

        Returns:
            How many of them were not excluded before.
        """
        new, now = 0, time.time()
        with self._database.transaction() as connection:
            for picture in pictures:
                rows = [(mark, source, now) for mark in picture.marks]
                new += connection.executemany("INSERT OR IGNORE INTO excluded VALUES (?, ?, ?)", rows).rowcount > 0
        return new

    def excluded(self) -> Sequence[Correction]:
        """Records whose image was excluded after they were stored."""
        with self._database.connection() as connection:
            rows = connection.execute(
                """
                SELECT fields, image FROM corrections
                WHERE image IN (SELECT image FROM marks JOIN excluded USING (mark)) ORDER BY position
                """
            ).fetchall()
        return [from_fields(json.loads(fields), image) for fields, image in rows]

    def stamp(self) -> tuple[int, int]:
        """Two numbers that change whenever a record comes or goes."""
        with self._database.connection() as connection:
            return connection.execute(
                "SELECT coalesce(max(position), 0), (SELECT count(*) FROM forgotten) FROM corrections"
            ).fetchone()

    def images_like(self, marks: Iterable[str]) -> frozenset[str]:
        """Hashes of the stored images that show the same picture, by the marks of `pictures`."""
        wanted = list(marks)
        with self._database.connection() as connection:
            holes = ", ".join("?" * len(wanted))
            return frozenset(
                row[0] for row in connection.execute(f"SELECT image FROM marks WHERE mark IN ({holes})", wanted)
            )

    def vectors(self, encoder: str) -> dict[str, bytes]:
        """The kept vectors of one encoder by image hash; little-endian float32."""
        with self._database.connection() as connection:
            return dict(connection.execute("SELECT image, vector FROM vectors WHERE encoder = ?", (encoder,)))

    def keep_vector(self, image: str, encoder: str, vector: bytes) -> None:
        """Keep what an encoder makes of a stored image; it goes with the image. Nothing where the image has gone."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO vectors SELECT sha256, ?, ? FROM images WHERE sha256 = ?",
                (encoder, vector, image),
            )

    def _insert(self, connection: sqlite3.Connection, candidate: Candidate) -> None:
        c, picture, data = candidate.correction, candidate.picture, candidate.read()
        if connection.execute("SELECT 1 FROM corrections WHERE id = ?", (c.id,)).fetchone():
            raise UserError(f"the store has a correction {c.id!r} already")
        if connection.execute("SELECT 1 FROM forgotten WHERE id = ?", (c.id,)).fetchone():
            raise UserError(self._why_missing(connection, c.id))
        self._refuse_excluded(connection, picture, "the image")
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise UserError(f"the image {picture.sha256[:12]} has changed while it was being imported; try again")
        connection.execute("INSERT OR IGNORE INTO images VALUES (?, ?)", (c.image, data))
        marks = [(c.image, mark) for mark in sorted(picture.marks)]
        connection.executemany("INSERT OR IGNORE INTO marks VALUES (?, ?)", marks)
        fields = json.dumps(to_fields(c))
        connection.execute(
            "INSERT INTO corrections (id, image, verdict, consent, fields) VALUES (?, ?, ?, ?, ?)",
            (c.id, c.image, c.verdict, c.consent, fields),
        )

    @staticmethod
    def _refuse_excluded(connection: sqlite3.Connection, picture: Picture, name: str) -> None:
        for mark in picture.marks:
            row = connection.execute("SELECT source FROM excluded WHERE mark = ?", (mark,)).fetchone()
            if row is not None:
                raise UserError(
                    f"{name} is an image of a benchmark ({row[0]}); learning from it would spoil the benchmark"
                )

    @staticmethod
    def _why_missing(connection: sqlite3.Connection, id: str) -> str:
        row = connection.execute("SELECT time FROM forgotten WHERE id = ?", (id,)).fetchone()
        if row is None:
            return f"there is no correction {id!r}"
        return f"the correction {id!r} was forgotten on {time.strftime('%Y-%m-%d', time.gmtime(row[0]))}"
