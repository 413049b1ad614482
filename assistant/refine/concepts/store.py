"""The concepts of a correction store: taught, listed, renamed, and forgotten for good."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from fourfold.assistant.database import Database
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.concepts.example import Example, checked, concept_name, from_fields, insert_examples
from fourfold.assistant.refine.schema import MIGRATIONS, delete_unused, insert_image, refuse_excluded
from fourfold.prompts.errors import UserError

MAX_EXAMPLES = 200
"""Of one concept; more would not make it better."""

_COLUMNS = "id, name, image, boxes, positive, consent, created, correction"


@dataclass(frozen=True)
class Concept:
    """A thing that was shown.

    Attributes:
        name: as it was written first.
        examples: in the order in which they came.
    """

    name: str
    examples: tuple[Example, ...]


class ConceptStore:
    """The concepts of one user, in the file of the user's corrections.

    Safe with threads and processes that write beside each other. A name is the same in upper and lower case. Nothing
    is made on the disk before something is shown.

    Args:
        directory: of the correction store.

    Raises (every method):
        UserError: the store cannot be opened or written, or is none.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._path = self.directory / "corrections.sqlite"

    @cached_property
    def database(self) -> Database:
        return Database(self._path, MIGRATIONS, "correction store")

    def show(
        self,
        name: str,
        image: Attachment,
        boxes: Sequence,
        *,
        positive: bool = True,
        consent: bool = True,
    ) -> Example:
        """Teach a concept by a picture and the boxes of it there; or, not `positive`, by what it is not.

        Raises:
            UserError: the name or a box is unusable, the image is none or one of a benchmark, or the concept has too
                many examples.
        """
        example = Example(name=name, boxes=tuple(boxes), positive=positive, consent=consent)
        [stored] = self.add([(example, image)])
        return stored

    def add(self, taught: Sequence[tuple[Example, Attachment]]) -> list[Example]:
        """Keep examples with their images, all or none.

        Raises:
            UserError: as `show`, or an example is there already.
        """
        whole = []
        for example, image in taught:
            image.decode()  # refuses what is no image
            whole.append((replace(checked(example), image=image.sha256), image, image.hashes))
        stored = []
        with self.database.transaction() as connection:
            for example, image, hashes in whole:
                refuse_excluded(connection, hashes, image.name)
                if connection.execute("SELECT 1 FROM concept_examples WHERE id = ?", (example.id,)).fetchone():
                    raise UserError(f"the store has the example {example.id!r} already")
                known = connection.execute(
                    "SELECT name FROM concept_examples WHERE casefold(name) = ? ORDER BY position DESC",
                    (example.name.casefold(),),
                ).fetchall()
                if len(known) >= MAX_EXAMPLES:
                    raise UserError(f"{example.name} has {len(known)} examples; forget some before more are shown")
                insert_image(connection, image, hashes)
                stored += insert_examples(connection, [example])
        return stored

    def list(self) -> list[Concept]:
        """Every concept, in the order in which they were first shown; without examples on images of benchmarks."""
        if not self._path.exists():
            return []
        with self.database.connection() as connection:
            rows = connection.execute(
                f"""
                SELECT {_COLUMNS} FROM concept_examples
                WHERE image NOT IN (SELECT image FROM marks JOIN excluded USING (mark)) ORDER BY position
                """
            ).fetchall()
        groups: dict[str, list[Example]] = {}
        for row in rows:
            example = _example(row)
            groups.setdefault(example.name.casefold(), []).append(example)
        return [Concept(examples[0].name, tuple(examples)) for examples in groups.values()]

    def get(self, name: str) -> Concept:
        """One concept.

        Raises:
            UserError: none has this name.
        """
        for concept in self.list():
            if concept.name.casefold() == _spelt(name):
                return concept
        raise UserError(_unknown(name))

    def rename(self, name: str, new: str) -> Concept:
        """Call a concept something else; where the new name is taken the two become one.

        Raises:
            UserError: none has this name, or the new one is unusable.
        """
        new = concept_name(new)
        self.get(name)
        with self.database.transaction() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM concept_examples WHERE casefold(name) = ? ORDER BY position",
                (_spelt(name),),
            ).fetchall()
            # Written anew rather than changed, so that whoever compares stamps sees it.
            connection.execute("DELETE FROM concept_examples WHERE casefold(name) = ?", (_spelt(name),))
            insert_examples(connection, [replace(_example(row), name=new) for row in rows])
        return self.get(new)

    def forget(self, name: str) -> int:
        """Delete a concept for good, with the images that nothing else needs; the corrections it was made of stay.

        Returns:
            How many examples it had.

        Raises:
            UserError: none has this name.
        """
        return self._delete("casefold(name) = ?", _spelt(name), _unknown(name))

    def forget_example(self, id: str) -> None:
        """Delete one example for good.

        Raises:
            UserError: there is none with this id.
        """
        self._delete("id = ?", id, f"there is no example {id[:64]!r}")

    def image(self, sha256: str) -> Attachment:
        """The image of an example.

        Raises:
            UserError: there is none.
        """
        with self.database.connection() as connection:
            row = connection.execute("SELECT data FROM images WHERE sha256 = ?", (sha256,)).fetchone()
        if row is None:
            raise UserError(f"there is no image {sha256[:12]!r} in the store; its concepts may have been forgotten")
        return Attachment(row[0])

    def features(self, image: str, tower: str) -> np.ndarray | None:
        """What `keep_features` kept of an image: (rows, columns, width), float32; None for nothing."""
        with self.database.connection() as connection:
            row = connection.execute(
                "SELECT rows, columns, data FROM tower_features WHERE image = ? AND tower = ?", (image, tower)
            ).fetchone()
        if row is None:
            return None
        rows, columns, data = row
        return np.frombuffer(data, "<f2").reshape(rows, columns, -1).astype(np.float32)

    def keep_features(self, image: str, tower: str, features: np.ndarray) -> None:
        """Keep what a tower makes of an image, in half precision, for as long as the image is kept."""
        rows, columns, _ = features.shape
        with self.database.transaction() as connection:
            # The image may have been forgotten while it was looked at.
            if connection.execute("SELECT 1 FROM images WHERE sha256 = ?", (image,)).fetchone():
                connection.execute(
                    "INSERT OR REPLACE INTO tower_features VALUES (?, ?, ?, ?, ?)",
                    (image, tower, rows, columns, features.astype("<f2").tobytes()),
                )

    def stamp(self) -> tuple[int, ...]:
        """Numbers that change whenever an example comes, goes or gets another name, or an image is excluded."""
        if not self._path.exists():
            return 0, 0, 0
        with self.database.connection() as connection:
            return connection.execute(
                """
                SELECT (SELECT coalesce(max(position), 0) FROM concept_examples),
                    (SELECT count(*) FROM concept_examples), (SELECT count(*) FROM excluded)
                """
            ).fetchone()

    def _delete(self, condition: str, value: str, missing: str) -> int:
        if not self._path.exists():
            raise UserError(missing)
        with self.database.transaction() as connection:
            # Adapters that have learnt it are known by this: an id and a time are all that is left.
            connection.execute(
                f"INSERT OR IGNORE INTO forgotten SELECT id, ? FROM concept_examples "
                f"WHERE {condition} AND correction IS NULL AND consent",
                (time.time(), value),
            )
            count = connection.execute(f"DELETE FROM concept_examples WHERE {condition}", (value,)).rowcount
            if not count:
                raise UserError(missing)
            delete_unused(connection)
        self.database.scrub()
        return count


def _example(row: Sequence) -> Example:
    fields = dict(zip(_COLUMNS.split(", "), row, strict=True))
    boxes, positive, consent = json.loads(fields["boxes"]), bool(fields["positive"]), bool(fields["consent"])
    return from_fields({**fields, "boxes": boxes, "positive": positive, "consent": consent})


def _spelt(name: str) -> str:
    """A name as it is looked up: "the Red mug", as it may have been shown, is "red mug"; "" for what is no name."""
    try:
        return concept_name(name).casefold()
    except UserError:
        return ""


def _unknown(name: str) -> str:
    return f"no concept is called {name[:60]!r}"
