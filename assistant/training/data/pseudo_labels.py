"""Pseudo-labels: what the detector finds in photos of which captions tell only a part.

A file of them is JSON Lines, a line a photo: `{"id": ..., "found": [[class, chance, [x1, y1, x2, y2]], ...]}`, the
class one of COCO's, the chance that the box is right, the corners in 0..1 of the photo. Boxes that are less likely than
`POSSIBLE` are left out, so that of a class without any box in a line one can say that it is absent.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fourfold.assistant.english import head_noun, number_of, singular, words_in, words_of
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import load_image_file
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.tools.coco import CLASSES, class_of
from fourfold.assistant.training.data.photos import EXHAUSTIVE, Detected, Photo, read_photos
from fourfold.prompts.errors import UserError

# Chances from which a box is taken for right, and below which it is nothing. On 281 photos of COCO and VOC 89 % of such
# boxes were right; of the counts where no box lies between, 87 % were exact before captions have their say; of the
# classes that have no box, 0.7 % were there (1.1 % without the detector's tiles).
SURE, POSSIBLE = 0.7, 0.07
# What a box needs that no caption speaks of: of a rare class, or where people gave a number.
_SURER = 0.9
_COMMON = ("person", "car")  # what captions leave out and the detector knows well
_SCORE = 0.15  # of the network; below it the chance is below `POSSIBLE`
_MOST = 6  # things; of more some are missed
_VAGUE = words_in("group crowd many several lot lots bunch team some numerous few")
_COUNTLESS = words_in("crowd crowds crowded many several audience spectators numerous")
_CLASSES = frozenset(CLASSES.values())


class Found(NamedTuple):
    """One thing that the detector found."""

    label: str
    chance: float
    box: Box


PseudoLabels = Mapping[str, tuple[Found, ...]]
"""What was found, by the photo's id."""


def read_pseudo_labels(path: Path) -> PseudoLabels:
    """A file of pseudo-labels.

    Raises:
        UserError: there is no such file, or a line is not of the form above.
    """
    if not path.is_file():
        raise UserError(f"there are no pseudo-labels at {path}; `fourfold train pseudo-labels --out {path}` makes them")
    return _read(path, path.read_bytes())


def _read(path: Path, content: bytes) -> dict[str, tuple[Found, ...]]:
    labels: dict[str, tuple[Found, ...]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
            found = tuple(Found(label, float(chance), Box(*box)) for label, chance, box in row["found"])
            if unknown := {one.label for one in found} - _CLASSES:
                raise ValueError(f"{min(unknown)!r} is no class of COCO's")
            labels[row["id"]] = found
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}, is not a photo's pseudo-labels: {error}") from None
    return labels


def make_pseudo_labels(
    directory: Path, sources: Iterable[str], out: Path, limit: int | None = None, on_progress: OnProgress | None = None
) -> int:
    """Look for COCO's classes in the photos of the sources that are for training, and write what is found line by line.

    What a stopped run wrote is kept and its photos are passed over.

    Args:
        directory: of the photos.
        sources: of `photos.SOURCES`.
        out: the file, begun or gone on with.
        limit: at most so many photos, those passed over not among them.

    Returns:
        How many photos were looked at.

    Raises:
        UserError: a source or the detector is missing, or `out` holds something else.
    """
    from fourfold.assistant.tools.detector import detect

    photos = [photo for photo in read_photos(directory, sources) if not photo.held_out]
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _begun(out)
    todo = [photo for photo in photos if photo.id not in done][:limit]
    with out.open("a", encoding="utf-8") as file:
        for place, photo in enumerate(todo):
            if on_progress:
                on_progress(Progress("Looking at photos", place, len(todo)))
            found = detect(load_image_file(directory / photo.path), least=_SCORE).found
            file.write(_line(photo.id, [Found(one.label, one.confidence, one.box) for one in found]))
            file.flush()  # a line is written whole
    if on_progress and todo:
        on_progress(Progress("Looking at photos", len(todo), len(todo)))
    return len(todo)


def with_pseudo_labels(photos: Sequence[Photo], labels: PseudoLabels) -> list[Photo]:
    """The photos, and what pseudo-labels add to those that have some; never to held-out or fully labelled ones."""
    return [
        replace(photo, detected=_agreed(photo, labels[photo.id]))
        if photo.id in labels and not photo.held_out and photo.source not in EXHAUSTIVE
        else photo
        for photo in photos
    ]


def _line(name: str, found: Iterable[Found]) -> str:
    rows = [
        [one.label, round(one.chance, 2), [round(side, 3) for side in one.box.as_tuple()]]
        for one in found
        if one.chance >= POSSIBLE
    ]
    return json.dumps({"id": name, "found": rows}, separators=(",", ":")) + "\n"


def _begun(path: Path) -> dict[str, tuple[Found, ...]]:
    """What a file holds already, after what a killed process left behind the last end of a line was taken away."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    labels = _read(path, whole)
    if rest := content[len(whole) :]:
        if not rest.startswith(b'{"id":'[: len(rest)]):
            raise UserError(f"{path} is not a file of pseudo-labels")
        with path.open("rb+") as file:
            file.truncate(len(whole))
    return labels


def _agreed(photo: Photo, found: Sequence[Found]) -> Detected:
    """What the detector's boxes add where they agree with what people wrote: people are right."""
    found = sorted(found, key=lambda one: -one.chance)
    human: dict[str, list[Box]] = {}
    for thing in photo.things:
        for label in dict.fromkeys(class_of(noun) for noun in thing.nouns):
            if label:
                human.setdefault(label, []).extend(thing.boxes)
    mentioned = {class_of(word) for word in (*photo.mentioned, *human)}
    possible: dict[str, float] = {}
    for one in found:
        if one.label not in mentioned and not _is_another(one, (), human):
            possible[one.label] = max(one.chance, possible.get(one.label, 0.0))
    some_of: dict[str, tuple[Box, ...]] = {}
    all_of: dict[str, tuple[Box, ...]] = {}
    numbers: dict[str, int] = {}
    for label in dict.fromkeys(one.label for one in found):
        mine = [one for one in found if one.label == label]
        named = human.get(label, [])
        least = SURE if label in mentioned or label in _COMMON else _SURER
        sure = [
            one
            for one in mine
            if (one.chance >= least or _is_among(one.box, named)) and not _is_another(one, found, human)
        ]
        told = _told(photo, label)
        if len(sure) <= told.number and told.agreed:
            numbers[label] = told.number
        if not sure:
            continue
        # A box that a person drew is the better one.
        boxes = tuple(next((b for b in named if b.iou(one.box) >= 0.5), one.box) for one in sure)
        some_of[label] = boxes
        if len({box.as_tuple() for box in boxes}) < len(boxes) or len(boxes) > _MOST:
            continue
        covered = all(any(box.iou(one.box) >= 0.5 for one in sure) for box in named)
        as_told = told.agreed and len(sure) == told.number
        if covered and (as_told or (len(sure) == len(mine) and _can_be(told, label, sure, named))):
            all_of[label] = boxes
            numbers[label] = len(boxes)
    return Detected(all_of, some_of, numbers, possible)


def _is_among(box: Box, others: Iterable[Box]) -> bool:
    return any(box.iou(other) >= 0.5 for other in others)


def _is_another(one: Found, found: Sequence[Found], human: Mapping[str, Sequence[Box]]) -> bool:
    """Whether people name what is in the box otherwise, or the detector itself is as sure of another class there."""
    if _is_among(one.box, human.get(one.label, ())):
        return False
    if any(_is_among(one.box, boxes) for boxes in human.values()):
        return True
    better = [other for other in found if other.label != one.label and other.chance > one.chance]
    return any(one.box.iou(other.box) >= 0.6 for other in better)


class _Told(NamedTuple):
    """How many things of a class the captions speak of."""

    number: int  # the greatest that a caption gives, 0 where none does
    agreed: bool  # it is above 1, two captions give it or it is large, and nothing speaks of more
    least: int  # what plurals and groups need


def _told(photo: Photo, label: str) -> _Told:
    numbers, least = [], 1
    for index, caption in enumerate(photo.captions):
        words = words_of(caption)
        many = any(singular(word) != word and class_of(word) == label for word in words)
        if many:
            least = max(least, 3 if label == "person" and _VAGUE & {*words} else 2)
        phrases = [caption[m.start : m.end].lower() for m in photo.mentions if m.caption == index]
        # "One of them" was spoken of before.
        counted = [p for p in phrases if class_of(head_noun(p) or "") == label and not p.startswith("one ")]
        numbers.append(sum(number_of(phrase) or 0 for phrase in counted))
    number = max(numbers, default=0)
    # Who counts four or more does so with care; of two, others may have left a third out.
    agreed = number > 1 and (numbers.count(number) > 1 or number > 3) and least <= number
    return _Told(number, agreed and not any(_COUNTLESS & {*words_of(c)} for c in photo.captions), least)


def _can_be(told: _Told, label: str, sure: Sequence[Found], named: Sequence[Box]) -> bool:
    """Whether what the captions speak of can be the sure boxes alone, where these are all that was found."""
    if len(sure) < max(told.number, told.least):
        return False
    if told.number and len(sure) > told.number:  # people left some out, or the detector sees too many
        extra = [one for one in sure if not _is_among(one.box, named)]
        return label == "person" and all(one.chance >= _SURER for one in extra)
    return True
