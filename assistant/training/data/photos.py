"""The photos for teaching: their annotations read, cleaned and joined into things with names and boxes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

from fourfold.assistant.english import head_noun, singular, words_of
from fourfold.assistant.grounding import Box, format_phrase
from fourfold.assistant.training.data.sample import View
from fourfold.prompts.errors import UserError

SOURCES = ("flickr8k_entities", "daquar", "coco", "imagenet_sample", "voc2012_100", "raccoon")
# Sources whose labels name every object of their classes, so that an unnamed class is absent.
EXHAUSTIVE = ("coco", "voc2012_100")

_LABEL_NAMES = {
    "aeroplane": "airplane",
    "tvmonitor": "tv",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "motorbike": "motorcycle",
    "sofa": "couch",
}


@dataclass(frozen=True)
class Thing:
    """One object, or one group of objects, of a photo."""

    # the phrases that were used for it, lower case, the most frequent first; labels for labelled sources
    names: tuple[str, ...]
    nouns: tuple[str, ...]  # their head nouns, singular, the most frequent first
    boxes: tuple[Box, ...]  # where it is; several for a group
    # the annotators' classes ("people", "clothing", ...), empty for labelled sources
    types: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Mention:
    """Where a caption speaks of something with boxes: characters `start` to `end` of caption `caption`."""

    caption: int
    start: int
    end: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Detected:
    """What a detector adds to the annotation of a photo, as far as people say nothing else (`pseudo_labels`)."""

    all_of: Mapping[str, tuple[Box, ...]]  # by class of COCO's: the boxes of everything of the class
    some_of: Mapping[str, tuple[Box, ...]]  # the same, but there may be more
    numbers: Mapping[str, int]  # how many there are of a class, those of `all_of` among them
    # the chance that something of a class is there that no caption speaks of, where it is more than noise
    possible: Mapping[str, float]


@dataclass(frozen=True)
class Photo:
    """A photo with all that is known about it."""

    id: str  # unique over all sources
    source: str  # one of `SOURCES`
    path: str  # relative to the photos directory
    held_out: bool  # never trained on
    captions: tuple[str, ...]  # as annotated
    mentions: tuple[Mention, ...]  # phrases of captions that have boxes
    things: tuple[Thing, ...]  # what is boxed, each once
    labels: tuple[str, ...]  # class names without boxes needed (imagenet) or with (coco, voc, raccoon)
    qa: tuple[tuple[str, str], ...]  # pairs of question and answer, cleaned
    detected: Detected | None = None  # None where no detector has looked

    @cached_property
    def mentioned(self) -> frozenset[str]:
        """Every word of the captions, singular, and every label."""
        words = {singular(word) for caption in self.captions for word in words_of(caption)}
        nouns = {noun for thing in self.things for noun in thing.nouns}
        return frozenset(words | nouns | set(self.labels))

    def caption(self, index: int) -> str:
        """Caption `index` as a sentence for reading."""
        return tidy_caption(self.captions[index])

    def grounded_caption(self, index: int, view: View) -> str | None:
        """Caption `index` with its phrases marked and boxed; None where the view cuts one off or none has a box."""
        raw, marks, phrases = self.captions[index], [], []
        for mention in sorted((m for m in self.mentions if m.caption == index), key=lambda m: m.start, reverse=True):
            boxes = boxes_in(view, mention.boxes)
            if boxes is None:
                return None
            phrases.append(tidy_phrase(raw[mention.start : mention.end]))
            marks.append(boxes)
            # A sign that no caption holds keeps the place while the rest is tidied.
            raw = f"{raw[: mention.start]}\x00{raw[mention.end :]}"
        if not marks:
            return None
        first = raw.lstrip().startswith("\x00")
        text = tidy_caption(raw)
        for phrase, boxes in zip(reversed(phrases), reversed(marks), strict=True):
            phrase, first = (phrase[:1].upper() + phrase[1:] if first else phrase), False
            text = text.replace("\x00", format_phrase(phrase, boxes), 1)
        return text

    def caption_fits(self, index: int, view: View) -> bool:
        """Whether everything boxed that caption `index` speaks of is in the view."""
        return all(boxes_in(view, m.boxes) is not None for m in self.mentions if m.caption == index)


def boxes_in(view: View, boxes: Iterable[Box]) -> tuple[Box, ...] | None:
    """The boxes as the view shows them, from left to right; None where one of them is not in it."""
    moved = [view.box(box) for box in boxes]
    kept = [box for box in moved if box is not None]
    if len(kept) < len(moved):
        return None
    return tuple(sorted(kept, key=lambda box: (box.x1, box.y1)))


def tidy_phrase(text: str) -> str:
    """A phrase as a person would write it, in small letters: `A small , brown dog` → `a small, brown dog`."""
    return re.sub(r"\s+([,;:!?.'])", r"\1", " ".join(text.lower().replace('"', "").split())).strip(" ,.")


def tidy_caption(text: str) -> str:
    """A caption as a person would write it: `A dog 's ball , red .` → `A dog's ball, red.`."""
    text = re.sub(r"\s+", " ", text.replace('"', "")).strip().rstrip(" .")
    text = re.sub(r"\s+([,;:!?.'])", r"\1", text)
    text = re.sub(r"\s+n't\b", "n't", text)
    text = text.replace(" - ", "-")
    if text.isupper():
        text = text.lower()
    return text[:1].upper() + text[1:] + "."


def read_photos(directory: Path, sources: Iterable[str] = SOURCES) -> list[Photo]:
    """All photos of the sources, in the order of their files.

    Raises:
        UserError: a source's file is missing.
    """
    photos: list[Photo] = []
    for source in sources:
        path = directory / f"{source}.jsonl"
        if not path.is_file():
            raise UserError(f"{path} is missing; known sources are {', '.join(SOURCES)}")
        photos += _read(path, source, path.stat().st_mtime_ns)
    return photos


@lru_cache(maxsize=2 * len(SOURCES))  # a mixture and the held-out items read the same files, which takes seconds
def _read(path: Path, source: str, changed: int) -> tuple[Photo, ...]:
    with path.open(encoding="utf-8") as lines:
        return tuple(_photo(json.loads(line), source) for line in lines)


def _photo(row: dict, source: str) -> Photo:
    @cache  # five captions speak of the same boxes
    def box(*xyxy: float) -> Box:
        return Box.from_pixels(xyxy, row["width"], row["height"])

    labels = tuple(_LABEL_NAMES.get(label, label) for label in row.get("labels", ()))
    mentions: tuple[Mention, ...] = ()
    if "phrases" in row:
        phrases = [(p, _distinct(box(*b) for b in p["boxes"])) for p in row["phrases"] if p["boxes"]]
        mentions = tuple(Mention(p["caption"], p["span"][0], p["span"][1], boxes) for p, boxes in phrases)
        things = _things_of_phrases([(p, boxes) for p, boxes in phrases if boxes])
    else:
        by_label: dict[str, list[Box]] = {}
        for item in row.get("boxes", ()):
            by_label.setdefault(_LABEL_NAMES.get(item["label"], item["label"]), []).append(box(*item["box"]))
        things = tuple(Thing((label,), (label,), tuple(boxes)) for label, boxes in by_label.items())
    return Photo(
        id=row["id"],
        source=source,
        path=row["image"],
        held_out=row["split"] == "heldout",
        captions=tuple(row.get("captions", ())),
        mentions=mentions,
        things=things,
        labels=labels,
        qa=tuple(_clean_qa(item["question"], item["answer"]) for item in row.get("qa", ())),
    )


def _things_of_phrases(phrases: list[tuple[dict, tuple[Box, ...]]]) -> tuple[Thing, ...]:
    """Phrases joined by entity, then entities joined that have the same boxes: two phrases may name one thing."""
    groups: list[tuple[list[str], set[str], tuple[Box, ...]]] = []
    by_entity: dict[str, int] = {}
    for phrase, boxes in phrases:
        place = by_entity.get(phrase["entity"])
        if place is None:
            place = next((i for i, group in enumerate(groups) if _same(group[2], boxes)), None)
        if place is None:
            place = len(groups)
            groups.append(([], set(), boxes))
        by_entity[phrase["entity"]] = place
        groups[place][0].append(tidy_phrase(phrase["phrase"]).replace("grey", "gray"))
        groups[place][1].update(phrase["types"])
    things = []
    for names, types, boxes in groups:
        nouns = Counter(noun for name in names if (noun := head_noun(name)))
        ordered = tuple(name for name, _ in Counter(names).most_common())
        things.append(Thing(ordered, tuple(noun for noun, _ in nouns.most_common()), boxes, frozenset(types)))
    return tuple(things)


def _distinct(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Boxes without those that repeat another one, and without slivers."""
    kept: list[Box] = []
    for box in boxes:
        if box.area > 1e-4 and all(box.iou(other) < 0.9 for other in kept):
            kept.append(box)
    return tuple(kept)


def _same(one: tuple[Box, ...], other: tuple[Box, ...]) -> bool:
    return len(one) == len(other) and all(any(a.iou(b) > 0.9 for b in other) for a in one)


def _clean_qa(question: str, answer: str) -> tuple[str, str]:
    question = re.sub(r"\bthe image\s?\d+\b|\bimage\s?\d+\b", "the image", question)
    question = re.sub(r"\bthe the\b", "the", question).strip().rstrip(" ?")
    answer = answer.replace("refridgerator", "refrigerator").replace("_", " ")
    return f"{question}?", ", ".join(part.strip() for part in answer.split(","))
