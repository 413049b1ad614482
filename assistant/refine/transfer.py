"""Corrections as JSON lines: one correction a line, its image a file beside it."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fourfold.assistant.files import write_bytes
from fourfold.assistant.images import Attachment, decode_data_uri
from fourfold.assistant.refine.record import Correction, from_fields, to_fields
from fourfold.assistant.refine.store import Candidate, CorrectionStore
from fourfold.prompts.errors import UserError

MAX_LINE = 4 * 2**20
"""Bytes; a longer line is no correction."""
_IMAGE = {"type": "image"}


@dataclass(frozen=True)
class Imported:
    """How many lines were new records, are in the store already word for word, and were forgotten and stay so."""

    added: int
    known: int
    forgotten: int


def import_corrections(store: CorrectionStore, path: str | Path) -> Imported:
    """Read a JSON-lines file into the store, all of it or nothing.

    A line is `{"image": path, "messages": [...], "rejected": text, "chosen": text or null, "boxes": [{"phrase": text or
    null, "box": [x1, y1, x2, y2]}] or null, "consent": bool, "remember": bool}` with boxes in parts of the image, and
    whatever else `export_corrections` writes; `remember` is as `consent` where it is missing. `image` is relative to
    the file or absolute. Messages may show the image as OpenAI's `image_url` part (the same path, or a data URI of the
    same file) or `{"type": "image"}`; where none does, it belongs to the first message of the user. A line without `id`
    gets one made from its content, so that reading a file twice adds nothing.

    Raises:
        UserError: a line cannot be read; its number, and why. Nothing was imported.
    """
    path = Path(path)
    known = {record.id: record for record in store.list()}
    forgotten = store.forgotten()
    candidates: dict[str, Candidate] = {}
    skipped = dropped = 0
    for number, line in _lines(path):
        try:
            candidate = _read(store, line, path.parent)
            id = candidate.correction.id
            if id in candidates:
                raise UserError(f"an earlier line holds the same correction ({id}); remove one of them")
            if id in forgotten:
                dropped += 1
            elif id in known:
                if replace(candidate.correction, created=known[id].created) != known[id]:
                    raise UserError(f"the store has another correction with the id {id!r}; leave out the id")
                skipped += 1
            else:
                candidates[id] = candidate
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}; nothing was imported") from None
    store.add_all(list(candidates.values()))
    return Imported(len(candidates), skipped, dropped)


def export_corrections(store: CorrectionStore, path: str | Path) -> int:
    """Write all records to a JSON-lines file that `import_corrections` reads, their images into `images/` beside it.

    Returns:
        How many were written.

    Raises:
        UserError: they cannot be written there.
    """
    path = Path(path)
    records = store.list()
    names: dict[str, str] = {}
    lines = []
    try:
        for record in records:
            if record.image not in names:
                image = store.image(record.image)
                names[record.image] = f"images/{record.image}{image.suffix}"
                write_bytes(path.parent / names[record.image], image.content)
            fields = {"image": names[record.image], **to_fields(record)}
            lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
        write_bytes(path, "".join(lines).encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
    return len(records)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise UserError(f"{path}, line {number}: longer than {MAX_LINE // 2**20} MiB; nothing was imported")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _read(store: CorrectionStore, line: bytes, directory: Path) -> Candidate:
    try:
        fields = json.loads(line, parse_constant=_refuse_constant)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({str(error)[:100]})") from None
    if not isinstance(fields, dict):
        raise UserError("must be a JSON object")
    name = fields.pop("image", None)
    if not isinstance(name, str) or not name:
        raise UserError("image must be the path of an image file")
    source = directory / name
    image = Attachment.from_path(source, f"image {name[:200]}")

    def is_the_image(url: str) -> bool:
        if url.startswith("data:"):
            return hashlib.sha256(decode_data_uri(url)).hexdigest() == image.sha256
        return url == name or directory / url == source

    if isinstance(fields.get("messages"), list):
        fields["messages"] = _with_placeholders(fields["messages"], is_the_image)
    correction = from_fields(fields)
    if not correction.id:
        correction = replace(correction, id=_id_of(correction, image.sha256))
    return replace(store.prepare(correction, image), source=source)  # the file is read again when all lines are sound


def _with_placeholders(messages: list[Any], is_the_image: Callable[[str], bool]) -> list[Any]:
    """Messages whose image parts are `{"type": "image"}`, at least one of them; all else is left for the record."""
    whole: list[Any] = []
    shown = False
    for message in messages:
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            parts = []
            for part in message["content"]:
                if isinstance(part, dict) and part.get("type") == "image_url":
                    link = part.get("image_url")
                    url = link.get("url") if isinstance(link, dict) else link
                    if not isinstance(url, str) or not is_the_image(url):
                        raise UserError(
                            "a message shows another image than the line's; a correction is about one image"
                        )
                    part = _IMAGE
                shown |= part == _IMAGE
                parts.append(part)
            message = {**message, "content": parts}
        whole.append(message)
    if shown:
        return whole
    for place, message in enumerate(whole):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            text = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if isinstance(text, list):
                whole[place] = {**message, "content": [_IMAGE, *text]}
            break
    return whole


def _id_of(correction: Correction, sha256: str) -> str:
    fields = {**to_fields(correction), "created": 0}
    if fields["remember"] == fields["consent"]:
        del fields["remember"]  # as from when there was no such field: what was imported then is still known
    content = json.dumps([sha256, fields], sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _refuse_constant(name: str) -> None:
    raise UserError(f"{name} is no number of JSON")
