"""Answers of models, read for their boxes."""

from pathlib import Path

from fourfold.assistant.grounding import BoxFormat, parse, parse_so_far
from fourfold.assistant.grounding.arriving import settled
from tests.fuzz.target import Target

_WRITTEN = (
    "<p>a dog</p> {<10><20><30><40>}<delim>{<1><2><3><4>}",
    '```json\n[{"bbox_2d": [10, 20, 300, 400], "label": "dog"}, {"point_2d": [5, 6]}]\n```',
    "<ref>dog</ref><box>(10,20),(300,400)</box>",
    "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>",
    "<loc0102><loc0204><loc0306><loc0408> dog ; <loc0001><loc0002><loc0003><loc0004> cat",
    "dog<loc_10><loc_20><loc_30><loc_40>",
    '<point x="10.5" y="20.5" alt="dog">dog</point> <points x1="1" y1="2" x2="3" y2="4">dogs</points>',
    '<points coords="1 1 100 200 2 300 400;2 1 5 6">dogs</points>',
    "<phrase>a dog</phrase><object><patch_index_0044><patch_index_0863></object>",
    "The dog is at [[100, 200, 300, 400]] and the cat (0.1, 0.2, 0.3, 0.4).",
    '{"dog": {"x": 1, "y": 2, "width": 30, "height": 40}, "cat": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}}',
    "x1=10, y1=20, x2=30, y2=40; [0.5, 0.25]",
    "top left (10, 20), bottom right (30, 40); 10 20 30 40",
    "Die Größe ist （１０，２０，３０，４０） &lt;p&gt;dog&lt;/p&gt; &#123;<1><2><3><4>&#125;",
)
_PIECES = (
    *("<p>", "</p>", "{", "}", "<", ">", "<delim>", "[", "]", "(", ")", ",", ";", ":", '"', "'", "\\", "\n", "\t", " "),
    *("<10>", "<loc0512>", "<loc_7>", "<box>", "</box>", "<ref>", "</ref>", "<point", "x=", "y1=", "alt=", "bbox_2d"),
    *("9" * 400, "1e308", "-0.0", "nan", "0.", "&lt;", "&#x7b;", "label", "１", "\u0660", "é", "😀", "```json", "```"),
    *("<patch_index_1023>", "<points coords=", "</points>", "<|box_start|>", "null", "width", "xmin", "x", "10, 20"),
)
_SIZES = (None, (640, 480), (1, 30_000))


def boxes(directory: Path) -> Target:
    """Every family's reading, of the whole text and of what has arrived of it."""
    return Target([text.encode() for text in _WRITTEN], _read, lambda mutator, data: mutator.text(data, _PIECES), 4000)


def _read(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for number, box_format in enumerate(BoxFormat):
        size = _SIZES[(number + len(data)) % len(_SIZES)]
        found = parse(text, box_format, size)
        for box in found.boxes:
            assert 0 <= box.x1 <= box.x2 <= 1 and 0 <= box.y1 <= box.y2 <= 1
        for phrase in found.phrases:
            assert 0 <= phrase.start <= phrase.end <= len(found.text)
        arrived = parse_so_far(text[: len(text) // 2], box_format, size)
        assert len(arrived.boxes) <= max(len(text), 1)
        settled(text, box_format)
