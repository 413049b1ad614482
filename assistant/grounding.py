"""Boxes: the typed box, its text form, reading it back from whatever a model wrote, and drawing it."""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont


@dataclass(frozen=True)
class Box:
    """A rectangle in parts of the image: 0..1 from the left (x) and from the top (y), x1 <= x2 and y1 <= y2.

    Raises:
        ValueError: a side lies outside 0..1 or the corners are the wrong way round.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        # Written so that NaN, which compares false with everything, is refused too.
        if not (0 <= self.x1 <= self.x2 <= 1 and 0 <= self.y1 <= self.y2 <= 1):
            raise ValueError(f"a box needs 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1, got {self.as_tuple()}")

    @classmethod
    def from_pixels(cls, xyxy: Sequence[float], width: int, height: int) -> "Box":
        """The box of pixel corners in an image of `width` x `height`; what lies outside the image is cut off.

        Annotations overrun their image by parts of a pixel, which is why cutting is right and refusing is not.

        Raises:
            ValueError: the corners are the wrong way round, or the whole box lies outside.
        """
        x1, y1, x2, y2 = xyxy
        if not (x1 <= x2 and y1 <= y2 and x2 >= 0 and y2 >= 0 and x1 <= width and y1 <= height):
            raise ValueError(f"the box {tuple(xyxy)} does not lie in an image of {width} x {height} pixels")
        return cls(max(x1, 0) / width, max(y1, 0) / height, min(x2, width) / width, min(y2, height) / height)

    def to_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) in pixels of an image of `width` x `height`, not rounded."""
        return self.x1 * width, self.y1 * height, self.x2 * width, self.y2 * height

    def as_tuple(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) in 0..1."""
        return self.x1, self.y1, self.x2, self.y2

    @property
    def area(self) -> float:
        """Part of the image that the box covers, 0..1."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def iou(self, other: "Box") -> float:
        """Intersection over union of continuous rectangles, 0..1 (no "+1 pixel").

        Two boxes without area have no ratio; it is 1 where they are equal and 0 where not.
        """
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        intersection = max(width, 0.0) * max(height, 0.0)
        union = self.area + other.area - intersection
        if union <= 0:
            return float(self == other)
        return intersection / union


@dataclass(frozen=True)
class GroundedPhrase:
    """Words of an answer with their boxes.

    Attributes:
        phrase: the words between `<p>` and `</p>`; None for a box that came without.
        boxes: at least one.
        start, end: the span of the words and their boxes in `Grounded.text`.
    """

    phrase: str | None
    boxes: tuple[Box, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Grounded:
    """A text read for its boxes.

    Attributes:
        text: the text that the spans index: the input, html-unescaped.
        phrases: in the order of the text.
        malformed: what looked like a box and was none, as written.
        plain: the text without any box markup, for people.
    """

    text: str
    phrases: tuple[GroundedPhrase, ...]
    malformed: tuple[str, ...]
    plain: str

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All boxes, with a phrase or without, in the order of the text."""
        return tuple(box for phrase in self.phrases for box in phrase.boxes)

    @property
    def segments(self) -> tuple[str | GroundedPhrase, ...]:
        """The text in order, cut into words without boxes (as written) and phrases with boxes."""
        pieces: list[str | GroundedPhrase] = []
        cursor = 0
        for grounded in self.phrases:
            pieces += [self.text[cursor : grounded.start], grounded]
            cursor = grounded.end
        pieces.append(self.text[cursor:])
        return tuple(piece for piece in pieces if piece != "")


def format_box(box: Box) -> str:
    """The box as the model reads and writes it, `{<12><30><56><80>}`: each side in hundredths, rounded down."""
    # The tolerance keeps 0.29 * 100 = 28.999999999999996 at 29.
    return "{" + "".join(f"<{math.floor(100 * side + 1e-9)}>" for side in box.as_tuple()) + "}"


def format_phrase(phrase: str, boxes: Sequence[Box]) -> str:
    """`<p>dog</p> {..}<delim>{..}`, a phrase with its boxes."""
    return f"<p>{phrase}</p> {'<delim>'.join(format_box(box) for box in boxes)}"


# A closed group, or one that was cut off: as much of it as still looks like a box. No part can match a brace twice, so
# reading stays linear in the length of the text.
_TOKEN = re.compile(r"<p>|</p>|<delim>|\{\s*<[^{}]*\}|\{\s*<(?:[-+\d.,<>\s]|delim)*")
_FOUR = re.compile(r"\s*" + r"<\s*(\d{1,3})\s*>\s*" * 4)
_BARE = re.compile(r"(?:<\d{1,3}>){4}")
ONLY_NUMBERS = re.compile(r"[\d\s,;<>()\[\]{}]*\.?\s*")


def parse(text: str) -> Grounded:
    """Read phrases and boxes out of a text; never raises, whatever the text is.

    The grammar is that of MiniGPT-v2's demo: `<p>phrase</p> {<x1><y1><x2><y2>}`, several boxes joined by `<delim>`
    (between or inside the braces), words between a phrase and its first box, a box without a phrase, and an answer
    without any `<p>` or brace that holds exactly four integers. Stricter than the demo in two places: a box out of
    range, the wrong way round, with another count of numbers or with a sign or fraction is reported as malformed and
    not used; and four integers in prose ("2 dogs, 3 cats ...") are no box: they must stand as `<1><2><3><4>` or be all
    that the answer says.
    """
    text = html.unescape(text)
    phrases: list[GroundedPhrase] = []
    malformed: list[str] = []
    plain: list[str] = []
    opened: int | None = None  # where an open <p>'s words start
    phrase: str | None = None  # the words that the next boxes belong to
    start = cursor = 0
    boxes: list[Box] = []
    end = 0

    def close() -> None:
        nonlocal phrase, boxes
        if boxes:
            phrases.append(GroundedPhrase(phrase, tuple(boxes), start, end))
        phrase, boxes = None, []

    for token in _TOKEN.finditer(text):
        gap = text[cursor : token.start()]
        plain.append(gap)
        cursor = token.end()
        if opened is None and boxes and gap.strip():
            close()  # words after a box: the phrase has all its boxes
        mark = token.group()
        if mark == "<p>":
            close()
            opened, start = token.end(), token.start()
        elif mark == "</p>":
            if opened is not None:
                phrase, opened = text[opened : token.start()].strip(), None
        elif mark != "<delim>":
            if opened is not None:  # "<p>dog {..}": the words end where the box begins
                phrase, opened = text[opened : token.start()].strip(), None
            if phrase is None and not boxes:
                start = token.start()
            found, bad = _read_group(mark)
            boxes += found
            malformed += bad
            end = token.end()
    close()
    plain.append(text[cursor:])
    words = "".join(plain)

    if not phrases and not malformed and "<p>" not in text and len(numbers := re.findall(r"\d+", text)) == 4:
        bare = _BARE.search(text)
        if bare or ONLY_NUMBERS.fullmatch(text):
            box = _box(numbers)
            span = bare.span() if bare else (0, len(text))
            if box is not None:
                phrases.append(GroundedPhrase(None, (box,), *span))
                words = text[: span[0]] + text[span[1] :]
            elif bare:
                malformed.append(bare.group())
    return Grounded(text, tuple(phrases), tuple(malformed), _tidy(words))


def _read_group(group: str) -> tuple[list[Box], list[str]]:
    """The boxes of one `{...}`, which may hold several joined by `<delim>`, and the parts that are no box."""
    if not group.endswith("}"):
        return [], [group.strip()]
    found, bad = [], []
    for part in group[1:-1].split("<delim>"):
        match = _FOUR.fullmatch(part)
        box = _box(match.groups()) if match else None
        if box is None:
            bad.append("{" + part.strip() + "}")
        else:
            found.append(box)
    return found, bad


def _box(numbers: Sequence[str]) -> Box | None:
    """The box of four integers 0..100, or None where they are none."""
    try:
        x1, y1, x2, y2 = (int(number) / 100 for number in numbers)
        return Box(x1, y1, x2, y2)
    except ValueError:
        return None


def _tidy(words: str) -> str:
    """Close the gaps that removed markup left: no double spaces, no space before a full stop or comma."""
    words = re.sub(r"[ \t]{2,}", " ", words)
    return re.sub(r"[ \t]+(?=[.,;:!?](?:\s|$))", "", words).strip()


# Okabe and Ito's colours without black: told apart by colour-blind people too.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def draw(image: Image.Image, phrases: Sequence[GroundedPhrase]) -> Image.Image:
    """A copy of `image` (RGB) with the boxes and their labels, one colour a phrase.

    Labels lie inside the image: above their box where there is room, else inside or below it, moved off labels that are
    there already where that is possible, and shortened where they are wider than the image. An image too small for any
    letter gets boxes only.
    """
    canvas = image.convert("RGB")  # a copy even of an RGB image
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(min(canvas.size) / 200))
    font = ImageFont.load_default(max(11, round(min(canvas.size) / 28)))
    labels: list[tuple[str, Box, tuple[int, int, int]]] = []
    for number, grounded in enumerate(phrases):
        colour = PALETTE[number % len(PALETTE)]
        for box in grounded.boxes:
            x1, y1, x2, y2 = box.to_pixels(canvas.width - 1, canvas.height - 1)
            pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)
            labels.append((grounded.phrase or str(number + 1), box, colour))
    taken: list[tuple[float, float, float, float]] = []
    for label, box, colour in labels:  # after all boxes, so that no line crosses a label
        spot = _place(pen, font, label, box.to_pixels(*canvas.size), canvas.size, taken)
        if spot is not None:
            shown, area, origin = spot
            taken.append(area)
            pen.rectangle(area, fill=colour)
            dark = (299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 1000 > 110
            pen.text(origin, shown, fill="black" if dark else "white", font=font)
    return canvas


def _place(
    pen: ImageDraw.ImageDraw,
    font: Any,
    label: str,
    corners: tuple[float, float, float, float],
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[str, tuple[float, float, float, float], tuple[float, float]] | None:
    """What to write, the rectangle behind it and the text's origin, in pixels; None where nothing fits."""
    label = " ".join(label.split())[:100].encode("utf-8", "replace").decode()
    shown, cut = label, len(label)
    margin = 2
    left, top, right, bottom = pen.textbbox((0, 0), shown, font=font)
    while cut and right - left + 2 * margin > size[0] - 1:
        cut -= 1
        shown = label[:cut].rstrip() + "…"
        left, top, right, bottom = pen.textbbox((0, 0), shown, font=font)
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    if not cut or height > size[1] - 1:
        return None
    x1, y1, _, y2 = corners
    x = min(max(x1, 0), size[0] - 1 - width)
    places = []
    for y in (y1 - height, y1, y2 - height, y2, *range(0, int(size[1] - height), int(height) + 1)):
        y = min(max(y, 0), size[1] - 1 - height)
        places.append((x, y, x + width, y + height))
    area = next((place for place in places if not any(_touch(place, other) for other in taken)), places[0])
    return shown, area, (area[0] + margin - left, area[1] + margin - top)


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
