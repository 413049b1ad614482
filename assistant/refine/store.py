"""Corrections and their images in one SQLite file: appended, listed, and forgotten for good."""

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fourfold.assistant.database import Database, data_directory
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.concepts.example import examples_of, insert_examples
from fourfold.assistant.refine.record import Correction, Verdict, check, from_fields, to_fields
from fourfold.assistant.refine.schema import MIGRATIONS, delete_unused, insert_image, refuse_excluded
from fourfold.prompts.errors import UserError


def default_directory() -> Path:
    """`refine` in the user's data directory."""
    return data_directory() / "refine"


@dataclass(frozen=True)
class Candidate:
    """A checked correction on its way into the store.

    Attributes:
        correction: with its id, time and image hash.
        image_hashes: by which its picture is known, see `Attachment.hashes`.
        source: the image file, or where to read it again.
    """

    correction: Correction
    image_hashes: frozenset[str]
    source: Attachment | Path


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
        self.database = Database(self.directory / "corrections.sqlite", MIGRATIONS, "correction store")

    def add(self, correction: Correction, image: Attachment | bytes) -> Correction:
        """Keep a correction.

        Returns:
            The record as stored: with its id, image hash and time.

        Raises:
            UserError: it makes no sense, is known or was forgotten, or its image is none or one of a benchmark.
        """
        [added] = self.add_all([self.prepare(correction, image)])
        return added

    def prepare(self, correction: Correction, source: Attachment | bytes | Path) -> Candidate:
        """Check a correction for `add_all` without storing it.

        Args:
            correction: id, image and created may be left for this to set.
            source: the image file or its path; a path is read again when it is stored.

        Raises:
            UserError: as `add`, but that it is known or was forgotten.
        """
        check(correction)
        image = Attachment.of(source)
        if correction.image not in ("", image.sha256):
            raise UserError(f"{image.name} is not the image of this record: its hash is {image.sha256[:12]}…")
        with self.database.connection() as connection:
            refuse_excluded(connection, image.hashes, image.name)
        plain = json.loads(json.dumps(to_fields(correction)))  # nobody else can change it any more
        whole = replace(
            from_fields(plain),
            image=image.sha256,
            id=correction.id or uuid.uuid4().hex,
            created=float(correction.created) or time.time(),
        )
        return Candidate(whole, image.hashes, source if isinstance(source, Path) else image)

    def add_all(self, candidates: Sequence[Candidate]) -> list[Correction]:
        """Keep several corrections, all or none.

        Raises:
            UserError: one of them is known or was forgotten, or its image changed since or became excluded.
        """
        with self.database.transaction() as connection:
            for candidate in candidates:
                self._insert(connection, candidate)
        return [candidate.correction for candidate in candidates]

    def list(
        self,
        *,
        verdict: Verdict | None = None,
        consented: bool | None = None,
        remembered: bool | None = None,
        excluded: bool | None = None,
    ) -> list[Correction]:
        """The records in the order in which they came; None for no condition.

        `consented` may be trained with, `remembered` are given back by the memory, and `excluded` are those whose image
        was named as a benchmark's after they were stored.
        """
        with self.database.connection() as connection:
            rows = connection.execute(
                """
                SELECT fields, image FROM corrections
                WHERE (?1 IS NULL OR verdict = ?1) AND (?2 IS NULL OR consent = ?2)
                    AND (?3 IS NULL OR (image IN (SELECT image FROM marks JOIN excluded USING (mark))) = ?3)
                    AND (?4 IS NULL OR remember = ?4)
                ORDER BY position
                """,
                (verdict, consented, excluded, remembered),
            ).fetchall()
        return [from_fields(json.loads(fields), image) for fields, image in rows]

    def count(self, *, verdict: Verdict | None = None, consented: bool | None = None) -> int:
        """How many records there are; None for no condition."""
        with self.database.connection() as connection:
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
        with self.database.connection() as connection:
            row = connection.execute("SELECT fields, image FROM corrections WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise UserError(self._why_missing(connection, id))
        return from_fields(json.loads(row[0]), row[1])

    def image(self, sha256: str) -> Attachment:
        """A stored image file.

        Raises:
            UserError: no record has this image.
        """
        with self.database.connection() as connection:
            row = connection.execute("SELECT data FROM images WHERE sha256 = ?", (sha256,)).fetchone()
        if row is None:
            raise UserError(f"there is no image {sha256[:12]!r} in the store; its corrections may have been forgotten")
        return Attachment(row[0])

    def forget(self, id: str) -> None:
        """Delete a record for good, and its image unless another record has it.

        What was deleted is overwritten in the file. Its id and the time stay, so that an import of an old export does
        not bring it back.

        Raises:
            UserError: there is none with this id.
        """
        with self.database.transaction() as connection:
            if not connection.execute("DELETE FROM corrections WHERE id = ?", (id,)).rowcount:
                raise UserError(self._why_missing(connection, id))
            connection.execute("INSERT INTO forgotten VALUES (?, ?)", (id, time.time()))
            delete_unused(connection)
        self.database.scrub()

    def forgotten(self) -> dict[str, float]:
        """Ids of the forgotten records, and when each was forgotten, in seconds since 1970."""
        with self.database.connection() as connection:
            return dict(connection.execute("SELECT id, time FROM forgotten ORDER BY time, id"))

    def exclude(self, images: Iterable[frozenset[str]], source: str) -> int:
        """Learn nothing from these images of `source`, now or later, and remember nothing of them.

        Args:
            images: the hashes of each, see `Attachment.hashes`.
            source: where they come from, for messages.

        Returns:
            How many of them were not excluded before.
        """
        new, now = 0, time.time()
        with self.database.transaction() as connection:
            for hashes in images:
                rows = [(image_hash, source, now) for image_hash in hashes]
                new += connection.executemany("INSERT OR IGNORE INTO excluded VALUES (?, ?, ?)", rows).rowcount > 0
        return new

    def stamp(self) -> tuple[int, ...]:
        """Numbers that change whenever a record comes or goes, or an image is excluded."""
        with self.database.connection() as connection:
            return connection.execute(
                """
                SELECT (SELECT coalesce(max(position), 0) FROM corrections), (SELECT count(*) FROM forgotten),
                    (SELECT count(*) FROM excluded)
                """
            ).fetchone()

    def images_like(self, image_hashes: Iterable[str]) -> frozenset[str]:
        """SHA-256 of the stored images that show the picture of these hashes; none where it is a benchmark's."""
        wanted = list(image_hashes)
        holes = ", ".join("?" * len(wanted))
        with self.database.connection() as connection:
            rows = connection.execute(
                f"""
                SELECT image FROM marks WHERE mark IN ({holes})
                    AND NOT EXISTS (SELECT 1 FROM excluded WHERE mark IN ({holes}))
                """,
                (*wanted, *wanted),
            )
            return frozenset(row[0] for row in rows)

    def _insert(self, connection: sqlite3.Connection, candidate: Candidate) -> None:
        c, image = candidate.correction, Attachment.of(candidate.source)
        if connection.execute("SELECT 1 FROM corrections WHERE id = ?", (c.id,)).fetchone():
            raise UserError(f"the store has a correction {c.id!r} already")
        if connection.execute("SELECT 1 FROM forgotten WHERE id = ?", (c.id,)).fetchone():
            raise UserError(self._why_missing(connection, c.id))
        refuse_excluded(connection, candidate.image_hashes, "the image")
        if image.sha256 != c.image:
            raise UserError(f"the image {c.image[:12]} has changed while it was being imported; try again")
        insert_image(connection, image, candidate.image_hashes)
        connection.execute(
            "INSERT INTO corrections (id, image, verdict, consent, remember, fields) VALUES (?, ?, ?, ?, ?, ?)",
            (c.id, c.image, c.verdict, c.consent, c.remember, json.dumps(to_fields(c))),
        )
        insert_examples(connection, examples_of(c))

    @staticmethod
    def _why_missing(connection: sqlite3.Connection, id: str) -> str:
        row = connection.execute("SELECT time FROM forgotten WHERE id = ?", (id,)).fetchone()
        if row is None:
            return f"there is no correction {id!r}"
        return f"the correction {id!r} was forgotten on {time.strftime('%Y-%m-%d', time.gmtime(row[0]))}"
