"""MiniGPT-v2's own boxes in text, `<p>dog</p> {<12><30><56><80>}`: writing them, and reading them back."""

import html
import math
import re
from collections.abc import Sequence

from fourfold.assistant.grounding.box import Box
from fourfold.assistant.grounding.grounded import Grounded, GroundedPhrase, tidy


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


def parse_markup(text: str) -> Grounded:
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
    return Grounded(text, tuple(phrases), tuple(malformed), tidy(words))


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
