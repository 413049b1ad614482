"""Finding boxes in an answer of any family: brackets, parentheses, tags, JSON, names of sides, or bare numbers.

Only how it is written is looked at here; what the numbers mean is declared (`conventions`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fourfold.assistant.grounding.conventions import PATCHES_A_SIDE, BoxFormat, Corners

# Every repetition is bounded, so that reading stays linear in the length of the answer.
_NUMBER = r"[-+]?(?:[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?"
_N = rf"[\"']?{_NUMBER}(?:\s?(?:%|px))?[\"']?"
_C = r"(?:\s{0,8}[,;|]\s{0,8}|\s{1,8})"  # between two numbers
_LINE = r"(?:[ \t]{0,8}[,;|][ \t]{0,8}|[ \t]{1,8}(?:-[ \t]{1,8})?)"  # the same within a line
_OPEN, _CLOSE = r"[\[({<]\s{0,8}", r"\s{0,8}[\])}>]"
_PAIR = rf"[\[(<]\s{{0,8}}{_N}{_C}{_N}\s{{0,8}}[\])>]"
# What may stand between the two corners of a box: "(1, 2), (3, 4)", "(1, 2) to the bottom-right corner (3, 4)".
_JOIN = (
    r"[\s,;:*•\-–—→>_\"']{0,6}"
    r"(?:(?:to|and|x|the|bottom|lower|right|corner|at|is|br|end)(?![A-Za-z])[\s,;:\-_\"'=*]{0,5}){0,8}"
    r"(?:[\[(]\s?x_?\w{0,3}\s?,\s?y_?\w{0,3}\s?[\])]\s{0,2}[=:]\s{0,2})?"
)
_CORNER = r"(?:(?:top|upper|bottom|lower)[_ -]?(?:left|right)|left|top|right|bottom|start|end|cent(?:er|re))"
_SIDE = (
    rf"(?:{_CORNER}[_ -]?[xy]|[xy][_ -]?{_CORNER}|x_?min|y_?min|x_?max|y_?max|(?:min|max)_?[xy]|x_?[012]|y_?[012]"
    r"|left|top|right|bottom|width|height|cx|cy|x|y|w|h)"
)
_NAMED = rf"(?<![A-Za-z0-9])[\"'*]{{0,3}}{_SIDE}[\"'*]{{0,3}}\s{{0,3}}[:=>][\s*]{{0,4}}{_N}"
_BETWEEN = (
    r"(?:</\w{1,8}>\s{0,4}<)?[\s,;|{}()\[\]*\-–—→•]{0,12}"
    r"(?:(?:and|to|the|bottom|lower|right|corner|at|is)(?![A-Za-z])[\s,:(\-]{1,4}){0,8}"
    r"(?:[\"']?\w{1,20}[\"']?\s{0,3}[:=]\s{0,3}\{\s{0,8})?"
)
_RANGE = rf"\s{{0,3}}[:=]\s{{0,3}}[\[(]?{_N}\s{{0,3}}(?:-|–|—|to|,|\.\.)\s{{0,3}}{_N}[\])]?"
_WORDS_REF = r"ref|\|object_ref_start\||\|ref\||p|phrase"

_WRITTEN = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in {
            # The words that a box belongs to.
            "ref": rf"<(?:{_WORDS_REF})>(?P<words>[^<>]{{0,300}})</?(?:ref|\|object_ref_end\||\|/ref\||p|phrase)>",
            # Points: of Molmo, under a key, in tags.
            "coords": r"<(?:points|tracks)\b[^<>]{0,200}?coords\s?=\s?[\"'](?P<triples>[0-9\s:;,.]{1,20000})[\"']"
            r"[^<>]{0,200}>(?:(?P<inner>[^<>]{0,300})</(?:points|tracks)>)?",
            "attributes": r"<points?\s[^<>]{0,8000}>(?:(?P<named_by>[^<>]{0,300})</points?>)?",
            "keyed": rf"[\"']?\bpoint(?:_2d|2d|s)?[\"']?\s{{0,3}}[:=]\s{{0,8}}(?:[\[(]\s{{0,8}})?"
            rf"{_PAIR}(?:\s{{0,8}},\s{{0,8}}{_PAIR}){{0,200}}",
            "tagged": rf"<(?:point|\|point_start\||\|box_start\||box)>\s{{0,3}}[\[(]?{_N}{_C}{_N}[\])]?\s{{0,3}}"
            r"</?(?:point|\|point_end\||\|box_end\||box)>",
            # Boxes.
            "named": rf"(?:<\w{{1,20}}\s{{1,3}}|[\[(]\s{{0,3}})?{_NAMED}(?:{_BETWEEN}{_NAMED}){{3}}"
            r"(?:\s{0,3}/?[>\])])?",
            "ranges": rf"(?<![A-Za-z0-9])[\"']?x[\"']?{_RANGE}[\s,;]{{0,4}}(?:and\s{{1,3}})?[\"']?y[\"']?{_RANGE}",
            "loc": r"(?:<loc_?[0-9]{1,4}>\s{0,3}){4}",
            "patches": r"<patch_index_[0-9]{1,4}>\s{0,3}<patch_index_[0-9]{1,4}>",
            "angles": rf"\{{?\s{{0,3}}(?:<\s{{0,3}}{_N}\s{{0,3}}>\s{{0,3}}){{4}}\}}?",
            "polygon": rf"<\|?quad(?:_start\|)?>\s{{0,3}}{_PAIR}(?:\s{{0,3}},?\s{{0,3}}{_PAIR}){{2,15}}",
            "corners": rf"(?:{_OPEN})?{_PAIR}{_JOIN}{_PAIR}(?:{_CLOSE})?",
            "four": rf"(?:(?:{_OPEN}){{1,3}}|;\s{{0,8}}){_N}(?:{_C}{_N}){{3}}"
            rf"(?:(?:{_CLOSE}){{1,3}}|(?=\s{{0,8}};)|\s{{0,8}}\Z)",
            # Numbers in brackets that are no box: too few, too many, or cut off.
            "broken": rf"(?:{_OPEN}){_N}(?:{_C}{_N}){{2,}}+(?:{_CLOSE}|{_C}?\Z)",
            "cut": rf"[\"']?(?:bbox|box)(?:_2d)?[\"']?\s{{0,3}}[:=]\s{{0,3}}(?:{_OPEN}){{1,2}}(?:{_N}{_C}?){{0,3}}\Z",
            "bare": rf"(?<![\w.,;+-]){_N}(?:{_LINE}{_N}){{3,}}+(?![\w.]?\w)",
        }.items()
    ),
    re.IGNORECASE,
)  # fmt: skip
_NUMBERS = re.compile(_NUMBER)
_UNSIGNED = r"[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}"  # behind an x the sign before a number is a dash
_SIDES = re.compile(rf"({_SIDE})[\"'*]{{0,3}}\s{{0,3}}[:=>][\s*]{{0,4}}[\"']?({_NUMBER})", re.IGNORECASE)
# Punctuation of Chinese texts beside a number, each one character as its like.
_WIDE = str.maketrans("（）［］【】，、；：", "()[][],,;:")
_WIDE_BY_NUMBER = re.compile(r"[（［【，、；：]\s?[-+.0-9]")
_ATTRIBUTES = re.compile(rf"\b([xy])[0-9]*\s?=\s?[\"']?\s?({_NUMBER})")
_ONLY_FOUR = re.compile(rf"\s*{_N}(?:{_C}{_N}){{3}}\s*\.?\s*")
_ONLY_PAIR = re.compile(rf"\s*{_PAIR}\s*\.?\s*")
# A key before the numbers, and what of its kind is no box.
_KEY = re.compile(r"[\"']([^\"'\n]{1,80})[\"']\s{0,3}:\s{0,3}[\[({\s]{0,6}\Z")
_BOX_KEYS = re.compile(
    r"b(?:ounding)?[_ ]?box(?:_?2d|es)?|box(?:_?2d|es)?|coord\w*|location|position|rect\w*|region|xyxy"
    r"|objects|detections|results?|predictions|answers?",
    re.IGNORECASE,
)
_NO_BOX_KEYS = re.compile(r"(?:rgba?|colou?r|size|mask|segmentation|polygon|keypoints?)\w*|image_\w+", re.IGNORECASE)
# Names that both say one thing; the letter may stand before or behind.
_SAME = {
    named: side
    for side, corners in {
        "left": ("xleft", "leftx"),
        "top": ("ytop", "topy"),
        "right": ("xright", "rightx"),
        "bottom": ("ybottom", "bottomy"),
        "x1": ("xtopleft", "topleftx", "xstart", "startx"),
        "y1": ("ytopleft", "toplefty", "ystart", "starty"),
        "x2": ("xbottomright", "bottomrightx", "xend", "endx"),
        "y2": ("ybottomright", "bottomrighty", "yend", "endy"),
        "xmin": ("minx",),
        "ymin": ("miny",),
        "xmax": ("maxx",),
        "ymax": ("maxy",),
        "cx": ("xcenter", "centerx"),
        "cy": ("ycenter", "centery"),
    }.items()
    for named in corners
}
_LABEL = re.compile(
    r"[\"'](?:label|name|object(?:_name)?|class(?:_name)?|category|description|phrase|caption|target|text(?:_content)?)[\"']"
    r"\s{0,3}:\s{0,3}(?:\"((?:[^\"\\\n]|\\.){1,300})\"|'((?:[^'\\\n]|\\.){1,300})')",
    re.IGNORECASE,
)  # fmt: skip
_OBJECT = re.compile(r"\{\s{0,20}[\"'\w]+\s{0,3}:")
_WINDOW = 1000  # characters around a box in which its JSON object may begin and end


@dataclass(frozen=True)
class Found:
    """A place in an answer that is, or looks like, a box or a point.

    Attributes:
        start, end: its span in the text, with the JSON object that it is all of.
        corners: x1, y1, x2, y2 as written, in this order whatever the format's; a point has its place twice; None for
            what cannot be one.
        label: the words that it belongs to; None where there are none.
        point: whether it is a point.
        in_json: whether the span is a JSON object's.
    """

    start: int
    end: int
    corners: Corners | None
    label: str | None = None
    point: bool = False
    in_json: bool = False


def find_boxes(text: str, box_format: BoxFormat) -> list[Found]:
    """All boxes and points of an answer in its order; those that cannot be used too, with corners None."""
    if _WIDE_BY_NUMBER.search(text):
        text = text.translate(_WIDE)
    if _ONLY_FOUR.fullmatch(text):
        return [Found(0, len(text), _in_order(_numbers(text), box_format))]
    if _ONLY_PAIR.fullmatch(text):
        return [Found(0, len(text), _point(_numbers(text), box_format), point=True)]
    found: list[Found] = []
    bare: list[Found] = []
    label: str | None = None  # of a tag, for the boxes right behind it
    since: int | None = None  # where that tag begins, before its first box
    cursor = 0
    for match in _WRITTEN.finditer(text):
        kind, written = _kind(match)
        if re.search(r"\w", re.sub(r"<[^<>]*>", "", text[cursor : match.start()])):
            label = since = None  # words between a tag and a box
        cursor = match.end()
        if kind == "ref":
            label, since = " ".join(match["words"].split()) or None, match.start()
            continue
        key = _KEY.search(text, max(match.start() - 100, 0), match.start())
        if key and _NO_BOX_KEYS.fullmatch(key[1]):
            continue
        places = list(_places(match, kind, written, box_format))
        alone = kind == "bare" and not text[max(match.start() - 9, 0) : match.start()].rstrip().endswith((">", ":"))
        for one in places:
            if alone:
                bare.append(one)
                continue
            if label is not None and one.label is None:
                one = replace(one, label=label, start=one.start if since is None else since)
                since = None
            found.append(_with_object(one, text, match.start() + _core(written), key if kind == "four" else None))
    # Four numbers in a row among words are a box only where nothing else is one.
    return _with_tag_labels(found or bare, text)


def _kind(match: re.Match[str]) -> tuple[str, str]:
    name = next(name for name, value in match.groupdict().items() if value is not None and name not in _PARTS)
    return name, match[name]


_PARTS = ("words", "triples", "inner", "named_by")


def _places(match: re.Match[str], kind: str, written: str, box_format: BoxFormat) -> Iterator[Found]:
    """The boxes or points of one match."""
    start, end = match.span()
    if kind == "coords":
        # A picture's number, then number, x and y of each of its points; pictures are kept apart by one of four marks.
        for picture in re.split(r"[\t:,;]", match["triples"]):
            _, *numbers = [float(one) for one in _NUMBERS.findall(picture)] or [0.0]
            for pair in zip(numbers[1::3], numbers[2::3], strict=False):
                yield Found(start, end, _point(pair, box_format), match["inner"], point=True)
    elif kind == "attributes":
        sides = [(name, float(value)) for name, value in _ATTRIBUTES.findall(written)]
        for (one, x), (other, y) in zip(sides[::2], sides[1::2], strict=False):
            if (one, other) == ("x", "y"):
                yield Found(start, end, (x, y, x, y), match["named_by"] or _alt(written), point=True)
    elif kind in ("keyed", "tagged"):
        numbers = _numbers(re.sub(r"point_?2d", "", written, flags=re.IGNORECASE))
        for pair in zip(numbers[::2], numbers[1::2], strict=True):
            yield Found(start, end, _point(pair, box_format), point=True)
    elif kind == "named":
        yield Found(start, end, _by_name(written))
    elif kind == "ranges":
        x1, x2, y1, y2 = (float(one) for one in re.findall(_UNSIGNED, written))
        yield Found(start, end, (x1, y1, x2, y2))
    elif kind == "patches":
        first, last = (int(one) for one in re.findall(r"[0-9]+", written))
        yield Found(start, end, _of_patches(first, last) if box_format is BoxFormat.PATCHES else None)
    elif kind == "loc":
        numbers = [float(one) for one in re.findall(r"[0-9]+", written)]
        # Two families share the word: with a line below it is Florence's, without PaliGemma's.
        meant = BoxFormat.THOUSAND if "_" in written else BoxFormat.LOC
        yield Found(start, end, _in_order(numbers, box_format) if box_format is meant else None)
    elif kind == "polygon":
        numbers = _numbers(written)
        xs, ys = (numbers[1::2], numbers[::2]) if box_format.y_first else (numbers[::2], numbers[1::2])
        yield Found(start, end, (min(xs), min(ys), max(xs), max(ys)))
    elif kind == "bare":
        numbers = _numbers(written)
        if len(numbers) == 4:
            yield Found(start, end, _in_order(numbers, box_format))
    elif kind in ("angles", "corners", "four"):
        yield Found(start, end, _in_order(_numbers(written), box_format))
    else:
        yield Found(start, end, None)


def _numbers(written: str) -> list[float]:
    return [float(number) for number in _NUMBERS.findall(re.sub(r"\b[xy][0-9]\b|<[^<>0-9]*>", " ", written))]


def _in_order(numbers: Sequence[float], box_format: BoxFormat) -> Corners:
    one, two, three, four = numbers
    return (two, one, four, three) if box_format.y_first else (one, two, three, four)


def _point(numbers: Sequence[float], box_format: BoxFormat) -> Corners:
    x, y = (numbers[1], numbers[0]) if box_format.y_first else numbers
    return x, y, x, y


def _of_patches(first: int, last: int) -> Corners | None:
    """The box of its first and last patch, in shares of the image: from centre to centre, but along a single row or
    column of patches from edge to edge, as Kosmos-2's processor has it; None beyond the last patch."""
    side = PATCHES_A_SIDE
    if max(first, last) >= side * side:
        return None
    (y1, x1), (y2, x2) = divmod(first, side), divmod(last, side)
    if x1 == x2 or y1 == y2:
        return x1 / side, y1 / side, (x2 + 1) / side, (y2 + 1) / side
    return (x1 + 0.5) / side, (y1 + 0.5) / side, (x2 + 0.5) / side, (y2 + 0.5) / side


def _by_name(written: str) -> Corners | None:
    """Corners of named sides, in whatever order they stand; None where the names are not those of a box."""
    sides: dict[str, float] = {}
    for name, value in _SIDES.findall(written):
        name = re.sub(r"[_ -]", "", name.lower()).replace("upper", "top").replace("lower", "bottom")
        name = name.replace("centre", "center")
        name = _SAME.get(name, name)
        # Corners with the same names twice: {"x": 1, "y": 2}, {"x": 3, "y": 4}.
        sides[name + "again" if name in sides else name] = float(value)
    for x1, y1, x2, y2 in (
        ("xmin", "ymin", "xmax", "ymax"),
        ("x1", "y1", "x2", "y2"),
        ("x0", "y0", "x1", "y1"),
        ("left", "top", "right", "bottom"),
        ("x", "y", "xagain", "yagain"),
    ):
        if {x1, y1, x2, y2} <= sides.keys():
            return sides[x1], sides[y1], sides[x2], sides[y2]
    for x, y in (("x", "y"), ("left", "top"), ("xmin", "ymin"), ("x1", "y1")):
        for wide, high in (("width", "height"), ("w", "h")):
            if {x, y, wide, high} <= sides.keys():
                return sides[x], sides[y], sides[x] + sides[wide], sides[y] + sides[high]
    for wide, high in (("width", "height"), ("w", "h")):
        if {"cx", "cy", wide, high} <= sides.keys():
            across, down = sides[wide] / 2, sides[high] / 2
            return sides["cx"] - across, sides["cy"] - down, sides["cx"] + across, sides["cy"] + down
    return None


def _alt(written: str) -> str | None:
    found = re.search(r"alt\s?=\s?(?:\"([^\"]{1,300})\"|'([^']{1,300})')", written)
    return found[1] or found[2] if found else None


def _core(written: str) -> int:
    """Where the numbers begin, behind a key that may hold a digit itself."""
    found = re.search(rf"(?<![A-Za-z_0-9]){_NUMBER}", written)
    return found.start() if found else 0


def _with_object(one: Found, text: str, core: int, key: re.Match[str] | None) -> Found:
    """The place with the JSON object around it, and with the label that this has."""
    start = end = core
    for _ in range(3):  # the object, and those that it is nested in
        start = _opening(text, start)
        if start < 0:
            break
        end = _closing(text, start)
        if label := _LABEL.search(text, start, end):
            words = re.sub(r"\\(.)", r"\1", label[1] or label[2])
            return replace(one, start=start, end=max(end, one.end), label=words, in_json=True)
    if key and not _BOX_KEYS.fullmatch(key[1]) and not one.point:  # {"dog": [1, 2, 3, 4]}
        return replace(one, start=key.start(), label=one.label or key[1], in_json=True)
    start = _opening(text, core)
    if start < 0:
        return one
    return replace(one, start=min(start, one.start), end=max(_closing(text, start), one.end), in_json=True)


def _opening(text: str, at: int) -> int:
    """Where the innermost JSON object around a place begins; -1 where there is none."""
    depth, first = 0, max(at - _WINDOW, 0)
    if text.find("{", first, at) < 0:
        return -1
    for place in range(at - 1, first - 1, -1):
        depth += {"}": 1, "{": -1}.get(text[place], 0)
        if depth < 0:
            return place if _OBJECT.match(text, place) else -1
    return -1


def _closing(text: str, start: int) -> int:
    """Where the object that begins at `start` ends; half-finished ones end with the text."""
    depth = 0
    for place in range(start, min(start + 2 * _WINDOW, len(text))):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return place + 1
    return len(text) if start + 2 * _WINDOW >= len(text) else start


def _with_tag_labels(found: list[Found], text: str) -> list[Found]:
    """The words beside `<loc...>`: Florence writes them before its boxes, PaliGemma behind."""
    labelled: list[Found] = []
    for place, one in enumerate(found):
        written = text[one.start : one.end].lstrip()
        if one.label is None and written.startswith("<loc"):
            if written.startswith("<loc_"):
                since = found[place - 1].end if place else 0
                words, start = _words(text[since : one.start]), one.start
                if not words and place:  # another box of the same words
                    one = replace(one, label=labelled[-1].label)
                elif words and len(words) <= 300:
                    start = since
                    one = replace(one, start=start, label=words)
            else:
                until = found[place + 1].start if place + 1 < len(found) else len(text)
                behind = re.match(r"(?:<seg[0-9]{3}>\s?){0,32}[^;<\n]{0,300}", text[one.end : until])
                assert behind is not None
                if words := _words(behind.group()):
                    one = replace(one, end=one.end + behind.end(), label=words)
        labelled.append(one)
    return labelled


def _words(text: str) -> str:
    return " ".join(re.sub(r"<[^<>]*>", " ", text).strip(" \n\t;,.:").split())
