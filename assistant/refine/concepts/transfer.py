"""Concepts as JSON lines: one example a line, its image a file beside it or a data URI in it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fourfold.assistant.files import write_bytes
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.concepts.example import Example, from_fields, to_fields
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.prompts.errors import UserError

MAX_LINE = 64 * 2**20
"""Bytes; room for an image as a data URI."""


@dataclass(frozen=True)
class ImportedConcepts:
    """How many examples were new, and how many are in the store already."""

    added: int
    known: int


def export_concepts(store: ConceptStore, path: str | Path) -> int:
    """Write all examples to a JSON-lines file that `import_concepts` reads, their images into `images/` beside it.

    Returns:
        How many were written.

    Raises:
        UserError: they cannot be written there.
    """
    path = Path(path)
    lines = []
    try:
        for concept in store.list():
            for example in concept.examples:
                image = store.image(example.image)
                name = f"images/{example.image}{image.suffix}"
                if not (path.parent / name).exists():
                    write_bytes(path.parent / name, image.content)
                lines.append(line_of(example, name))
        write_bytes(path, "".join(lines).encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
    return len(lines)


def line_of(example: Example, image: str) -> str:
    """The line of an example whose image is at this place: a path, or a data URI."""
    fields = {name: value for name, value in to_fields(example).items() if name != "correction"}
    return json.dumps({**fields, "image": image}, ensure_ascii=False) + "\n"


def import_concepts(store: ConceptStore, path: str | Path) -> ImportedConcepts:
    """Read what `export_concepts` wrote, all of it or nothing; what is there already is not added twice.

    A line is `{"name": text, "image": path or data URI, "boxes": [[x1, y1, x2, y2], ...] in parts of the image,
    "positive": bool, "consent": bool}`; the last two are true where they are missing.

    Raises:
        UserError: a line cannot be read; its number, and why. Nothing was imported.
    """
    path = Path(path)
    return import_lines(store, _lines(path), str(path), path.parent)


def import_lines(
    store: ConceptStore, lines: Iterable[bytes], source: str, directory: Path | None = None
) -> ImportedConcepts:
    """The same for lines that are there already; without `directory` only data URIs are taken for images."""
    there = {example.id for concept in store.list() for example in concept.examples}
    taught: dict[str, tuple[Example, Attachment]] = {}
    known = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            example, image = _read(line, directory)
        except UserError as error:
            raise UserError(f"{source}, line {number}: {error}; nothing was imported") from None
        known += example.id in there
        if example.id not in there:
            taught[example.id or f"line {number}"] = example, image
    store.add(list(taught.values()))
    return ImportedConcepts(len(taught), known)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise UserError(f"{path}: a line is longer than {MAX_LINE // 2**20} MiB; nothing was imported")
                yield line
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _read(line: bytes, directory: Path | None) -> tuple[Example, Attachment]:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({str(error)[:100]})") from None
    if not isinstance(fields, dict):
        raise UserError("must be a JSON object")
    where = fields.pop("image", None)
    if not isinstance(where, str) or not where:
        raise UserError("image must be the path of an image file, or a data URI")
    if where.startswith("data:"):
        image = Attachment.from_data_uri(where, isolated=directory is None)  # over HTTP
    elif directory is None:
        raise UserError("image must be a data URI")
    else:
        image = Attachment.from_path(directory / where, f"image {where[:200]}")
    if "name" not in fields:
        raise UserError("name is missing")
    fields.pop("correction", None)
    return replace(from_fields(fields), image=image.sha256), image
