"""Reading an answer whole: its words, its phrases and their boxes, whichever family wrote it."""

import html
import re

from fourfold.assistant.grounding.box import Box
from fourfold.assistant.grounding.conventions import BoxFormat, scale
from fourfold.assistant.grounding.grounded import Grounded, GroundedPhrase, tidy
from fourfold.assistant.grounding.markup import parse_markup
from fourfold.assistant.grounding.reading import Found, find_boxes

# What families write around boxes, and what no person wants to read.
_TAGS = re.compile(
    r"</?(?:delim|ref|box|bbox|quad|point|points|object|phrase|det|p|s|answer|pad|bos|eos|seg[0-9]{3}|loc_?[0-9]{1,4}|grounding|patch_index_\d{1,4}|delimiter_of_multi_objects)\b[^<>]{0,200}>"
    r"|<\|/?(?:object_ref|box|quad|point|ref|det|grounding|begin_of_box|end_of_box|im_end)(?:_start|_end)?\|>"
    r"|^\s*```\w*\s*$|```(?:json)?",
    re.IGNORECASE | re.MULTILINE,
)  # fmt: skip
_JSON_REST = re.compile(r"[\s\[\]{},:]*(?:[\"'][\w ]{1,40}[\"']\s*:[\s\[\]{},]*)?")


def parse(text: str, box_format: BoxFormat = BoxFormat.TOKENS, size: tuple[int, int] | None = None) -> Grounded:
    """Read phrases and boxes out of a text; never raises, whatever the text is.

    Args:
        text: an answer.
        box_format: how its model writes boxes: declared, or `box_format_of` the model's name.
        size: width and height of the image, without which pixels are malformed.
    """
    if box_format is BoxFormat.TOKENS:
        return parse_markup(text)
    text = html.unescape(text)
    out: list[str] = []  # the text as it is shown: tags and JSON left out, each box behind its words
    plain: list[str] = []
    phrases: list[GroundedPhrase] = []
    malformed: list[str] = []
    length = cursor = 0

    def show(piece: str) -> None:
        nonlocal length
        out.append(piece)
        length += len(piece)

    found = find_boxes(text, box_format)
    before: Found | None = None
    for one in found:
        box = box_of(one, box_format, size)
        written = text[one.start : one.end].strip()
        if before is None or one.start >= before.end:
            gap = _words(text[cursor : one.start], near_json=one.in_json or (before is not None and before.in_json))
            same = before is not None and before.label == one.label and not gap.strip(" ,;\n") and not one.in_json
            if not same:
                show(gap)
                plain.append(gap)
            cursor = one.end
        else:  # several in one tag or object
            same = True
            cursor = max(cursor, one.end)
        if box is None:
            malformed.append(written)
        elif same and phrases and before is not None and phrases[-1].end == length:
            last = phrases[-1]
            if one.start >= before.end:
                show(f" {written}")
            phrases[-1] = GroundedPhrase(last.phrase, (*last.boxes, box), last.start, length)
        else:
            start = length
            show(f"{one.label} {written}" if one.label else written)
            phrases.append(GroundedPhrase(one.label, (box,), start, length))
        if one.label and not same:
            joined = before is not None and before.label is not None and not gap.strip()
            # "of<phrase> a dog</phrase>" keeps its space inside the tag.
            glued = bool(plain) and plain[-1][-1:].isalnum()
            plain.append(f", {one.label}" if joined else f" {one.label}" if glued else one.label)
        before = one
    rest = _words(text[cursor:], near_json=before is not None and before.in_json)
    show(rest)
    plain.append(rest)
    words = tidy("".join(plain)).strip(" \n;,") if found else tidy("".join(plain))
    return Grounded("".join(out), tuple(phrases), tuple(malformed), words)


def box_of(found: Found, box_format: BoxFormat, size: tuple[int, int] | None) -> Box | None:
    """The box of a place in 0..1, cut off at the image's edges; None where it cannot be used."""
    if found.corners is None or (size is None and box_format.needs_size):
        return None
    width, height = size or (1, 1)
    corners = scale(found.corners, box_format, width, height)
    try:
        return None if corners is None else Box.from_pixels(corners, width, height)
    except ValueError:
        return None


def _words(gap: str, near_json: bool) -> str:
    gap = _TAGS.sub("", gap)
    if near_json:
        # What is left between JSON objects and around them.
        if _JSON_REST.fullmatch(gap):
            return ""
        gap = re.sub(r"[\s\[{]*(?:[\"'][\w ]{1,40}[\"']\s*:[\s\[{]*)?\Z", " ", gap)
        gap = re.sub(r"\A[\s\]},]+", " ", gap)
    return gap
