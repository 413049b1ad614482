"""Everybody's answers against boxes set by hand, on a wide, a tall and a square picture."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.assistant.grounding import (
    FAMILIES,
    Box,
    BoxFormat,
    box_format_of,
    family_of,
    find_boxes,
    parse,
    parse_so_far,
    scale,
)
from fourfold.assistant.grounding.arriving import settled
from fourfold.assistant.grounding.conventions import resized

WIDE, TALL, SQUARE = (640, 428), (427, 640), (500, 500)

# By hand: the bowl of a 640 x 428 photo, x 160..480, y 107..321 in pixels; the same quarter-to-three-quarters in all.
MIDDLE = (0.25, 0.25, 0.75, 0.75)
# Left of the middle, in the upper part: x 0.1..0.4, y 0.2..0.8.
LEFT = (0.1, 0.2, 0.4, 0.8)

ANSWERS = [
    # Shikra, LLaVA, SPHINX: shares in brackets.
    ("unit", LEFT, "[0.10, 0.20, 0.40, 0.80]"),
    ("unit", LEFT, "The dog is at [0.1,0.2,0.4,0.8]."),
    ("unit", LEFT, ".1 .2 .4 .8"),
    ("unit", LEFT, "It is (.1, .2, .4, .8), I think"),
    ("unit", LEFT, '{"x_min": 0.1, "y_min": 0.2, "x_max": 0.4, "y_max": 0.8}'),
    ("unit", LEFT, "<box>(0.1,0.2),(0.4,0.8)</box>"),
    ("percent", LEFT, "[10, 20, 40, 80]"),
    ("percent", LEFT, "10%, 20%, 40%, 80%"),
    ("percent", LEFT, "{<10><20><40><80>}"),
    # CogVLM, with its leading zeros, InternVL, GLM-V, DeepSeek-VL2, Ferret.
    ("thousand", LEFT, "[[100,200,400,800]]"),
    ("thousand", (0.732, 0.002, 1.0, 0.273), "[[732,002,1000,273]]"),
    ("thousand", LEFT, "<ref>the dog</ref><box>[[100, 200, 400, 800]]</box>"),
    ("thousand", LEFT, "<|begin_of_box|>[[100,200,400,800]]<|end_of_box|>"),
    ("thousand", LEFT, "<|ref|>the dog<|/ref|><|det|>[[100, 200, 400, 800]]<|/det|>"),
    ("thousand", LEFT, "a dog [100, 200, 400, 800] on the lawn"),
    # Qwen-VL and Qwen2-VL: two corners, with and without the special tokens.
    ("thousand", LEFT, "<ref>the dog</ref><box>(100,200),(400,800)</box>"),
    (
        "thousand",
        LEFT,
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(100,200),(400,800)<|box_end|><|im_end|>",
    ),
    ("thousand", LEFT, "(100,200),(400,800)"),
    ("thousand", LEFT, "<quad>(100,200),(400,200),(400,800),(100,800)</quad>"),
    # Qwen3-VL: JSON, in a fence, behind words, without a label, and not quite finished.
    ("thousand", LEFT, '```json\n[\n\t{"bbox_2d": [100, 200, 400, 800], "label": "dog"}\n]\n```'),
    ("thousand", LEFT, 'Sure:\n```json\n[{"label": "dog", "bbox_2d": [100, 200, 400, 800]}]\n```\nAnything else?'),
    ("thousand", LEFT, '{"bbox_2d": [100, 200, 400, 800]}'),
    ("thousand", LEFT, '[{"bbox_2d": [100, 200, 400, 800], "label": "do'),
    ("thousand", LEFT, '[{"bbox_2d": [100, 200, 400, 800'),
    ("thousand", LEFT, "{'bbox': [100, 200, 400, 800], 'label': 'dog'}"),
    ("thousand", LEFT, '{"bbox_2d": "100, 200, 400, 800"}'),
    ("thousand", LEFT, '{"dog": [[100, 200, 400, 800]]}'),
    ("thousand", LEFT, '{"label": "dog", "box": {"x1": 100, "y1": 200, "x2": 400, "y2": 800}}'),
    # Florence, MiniCPM-V, Seed.
    ("thousand", LEFT, "</s><s>dog<loc_100><loc_200><loc_400><loc_800></s>"),
    ("thousand", LEFT, "<ref>dog</ref><box>100 200 400 800</box>"),
    ("thousand", LEFT, "<bbox>100 200 400 800</bbox>"),
    ("thousand", LEFT, "100 200 400 800"),
    # Gemini: y first, but names say themselves what they are.
    ("thousand_yx", LEFT, '[{"box_2d": [200, 100, 800, 400], "label": "dog"}]'),
    ("thousand_yx", LEFT, "[200, 100, 800, 400]"),
    ("thousand_yx", LEFT, '{"ymin": 200, "xmin": 100, "ymax": 800, "xmax": 400}'),
    # Chinese punctuation, sides with long names, markdown, a grid action's words.
    ("thousand", LEFT, "（100，200），（400，800）"),
    ("thousand", LEFT, "狗的位置：【100，200，400，800】"),
    ("thousand", LEFT, "(x1: 100, y1: 200) to (x2: 400, y2: 800)"),
    ("thousand", LEFT, '{"top_left_x": 100, "top_left_y": 200, "bottom_right_x": 400, "bottom_right_y": 800}'),
    ("thousand", LEFT, '{"x_left": 100, "y_top": 200, "x_right": 400, "y_bottom": 800}'),
    ("thousand", LEFT, '{"x_center": 250, "y_center": 500, "width": 300, "height": 600}'),
    ("thousand", LEFT, "- **x1**: 100\n- **y1**: 200\n- **x2:** 400\n- **y2**: 800"),
    ("thousand", LEFT, "The top-left corner is at x=100, y=200 and the bottom-right corner is at x=400, y=800."),
    ("thousand", LEFT, "x: 100-400, y: 200-800"),
    ("thousand", LEFT, "(x1, y1) = (100, 200), (x2, y2) = (400, 800)"),
    ("thousand", LEFT, "**Top-left corner**: (100, 200)\n**Bottom-right corner**: (400, 800)"),
    ("thousand", LEFT, '{"minX": 100, "minY": 200, "maxX": 400, "maxY": 800}'),
    ("thousand_yx", LEFT, "x from its left: x = 100 to 400 and y = 200 to 800"),
    # PaliGemma, y first of 1024.
    ("loc", MIDDLE, "<loc0256><loc0256><loc0768><loc0768> dog"),
    ("loc", (0.125, 0.25, 0.5, 0.75), "<loc0256><loc0128><loc0768><loc0512> dog ; "),
    ("loc", (0.125, 0.25, 0.5, 0.75), "[256, 128, 768, 512]"),
]


@pytest.mark.parametrize("size", [WIDE, TALL, SQUARE], ids=["wide", "tall", "square"])
@pytest.mark.parametrize(("declared", "expected", "answer"), ANSWERS, ids=[answer for _, _, answer in ANSWERS])
def test_shares_of_the_image(declared: str, expected: tuple, answer: str, size: tuple[int, int]) -> None:
    read = parse(answer, BoxFormat(declared), size)
    assert [box.as_tuple() for box in read.boxes] == [pytest.approx(expected, abs=1e-9)]
    assert read.malformed == ()
    # The scorer's reading is the page's, in pixels.
    [found] = find_boxes(answer, BoxFormat(declared))
    width, height = size
    x1, y1, x2, y2 = scale(found.corners, BoxFormat(declared), width, height)
    assert (x1 / width, y1 / height, x2 / width, y2 / height) == pytest.approx(expected)


@pytest.mark.parametrize(
    "answer",
    [
        "[160, 107, 480, 321]",
        "from (160, 107) to (480, 321)",
        "The top-left corner is (160, 107) and the bottom-right corner is (480, 321).",
        '{"top_left": {"x": 160, "y": 107}, "bottom_right": {"x": 480, "y": 321}}',
        '{"top_left": [160, 107], "bottom_right": [480, 321]}',
        '{"x": 160, "y": 107, "width": 320, "height": 214}',
        "left: 160, top: 107, right: 480, bottom: 321",
        "xmin: 160\nymin: 107\nxmax: 480\nymax: 321",
        '<box x1="160" y1="107" x2="480" y2="321"/>',
        "(x1, y1, x2, y2) = (160, 107, 480, 321)",
        "<x1>160</x1><y1>107</y1><x2>480</x2><y2>321</y2>",
        "(160,107)->(480,321)",
        "160, 107 - 480, 321",
        "Box(x1=160, y1=107, x2=480, y2=321)",
        "160;107;480;321",
        "[160px, 107px, 480px, 321px]",
        "| dog | 160 | 107 | 480 | 321 |",
        "160\n107\n480\n321",
        '{"bbox": [[160, 107], [480, 321]]}',
        "\\boxed{160, 107, 480, 321}",
    ],
)
def test_pixels_of_the_image(answer: str) -> None:
    assert [box.as_tuple() for box in parse(answer, BoxFormat.PIXELS, WIDE).boxes] == [pytest.approx(MIDDLE)]
    # Without the size of the image pixels mean nothing.
    unknown = parse(answer, BoxFormat.PIXELS)
    assert (unknown.boxes, len(unknown.malformed)) == ((), 1)


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        (WIDE, (644, 420)),  # by hand: 640 / 28 = 22.86 -> 23 x 28; 428 / 28 = 15.29 -> 15 x 28
        (TALL, (420, 644)),
        (SQUARE, (504, 504)),
        ((40, 30), (84, 56)),  # below 3136 pixels: scaled up first
    ],
)
def test_pixels_of_the_resized_image(size: tuple[int, int], seen: tuple[int, int]) -> None:
    assert resized(*size) == seen
    x1, y1, x2, y2 = (round(share * side) for share, side in zip(LEFT, seen * 2, strict=True))
    answer = f'[{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}], "label": "dog"}}]'
    [box] = parse(answer, BoxFormat.RESIZED, size).boxes
    assert box.as_tuple() == pytest.approx(LEFT, abs=0.5 / min(seen))


@pytest.mark.parametrize("size", [WIDE, TALL, SQUARE, (40, 30), (1333, 800)])
def test_the_resized_image_is_what_the_processor_makes(size: tuple[int, int]) -> None:
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    limits = {"shortest_edge": 56 * 56, "longest_edge": 16384 * 28 * 28}
    made = Qwen2VLImageProcessorPil(size=limits)(images=Image.new("RGB", size), return_tensors="np")
    _, rows, columns = made["image_grid_thw"][0].tolist()
    assert resized(*size) == (columns * 14, rows * 14)


def test_patches_are_what_the_processor_of_kosmos_makes_of_them() -> None:
    from transformers.models.kosmos2.processing_kosmos2 import patch_index_to_coordinate

    for first, last in ((44, 863), (0, 1023), (5, 5), (3, 9), (7, 7 + 32 * 4), (291, 817)):
        answer = (
            f"<grounding> An image of<phrase> a snowman</phrase><object><patch_index_{first:04d}>"
            f"<patch_index_{last:04d}></object> by a fire."
        )
        read = parse(answer, BoxFormat.PATCHES)
        [box] = read.boxes
        assert box.as_tuple() == pytest.approx(patch_index_to_coordinate(first, last, 32))
        assert (read.phrases[0].phrase, read.plain) == ("a snowman", "An image of a snowman by a fire.")
    [caption_and_entities] = parse("('a dog', (1, 6), [(0.1, 0.2, 0.4, 0.8)])", BoxFormat.PATCHES).boxes
    assert caption_and_entities.as_tuple() == LEFT
    two = "<object><patch_index_0044><patch_index_0863></delimiter_of_multi_objects/>"
    assert len(parse(two + "<patch_index_0005><patch_index_0005></object>", BoxFormat.PATCHES).boxes) == 2
    wrong = "<patch_index_0044><patch_index_1024>"
    assert parse(wrong, BoxFormat.PATCHES).malformed == (wrong,)
    assert parse("<patch_index_0044><patch_index_0863>", BoxFormat.UNIT).boxes == ()


def test_several_boxes_in_their_order_with_their_words() -> None:
    two = [(0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)]
    for declared, answer in (
        (
            "thousand",
            "<ref>dog</ref><box>[[100, 200, 300, 400]]</box> and <ref>cat</ref><box>[[500,600,700,800]]</box>",
        ),
        ("thousand", "dog<loc_100><loc_200><loc_300><loc_400>cat<loc_500><loc_600><loc_700><loc_800>"),
        (
            "thousand",
            '[{"bbox_2d": [100,200,300,400], "label": "dog"}, {"label": "cat", "bbox_2d": [500,600,700,800]}]',
        ),
        ("thousand", '{"dog": [100, 200, 300, 400], "cat": [500, 600, 700, 800]}'),
        ("unit", "<ref>dog</ref>[.1, .2, .3, .4] <ref>cat</ref>[.5, .6, .7, .8]"),
    ):
        phrases = parse(answer, BoxFormat(declared)).phrases
        assert [one.phrase for one in phrases] == ["dog", "cat"], answer
        assert [box.as_tuple() for one in phrases for box in one.boxes] == [pytest.approx(one) for one in two]
    for answer in (
        "[[100,200,300,400;500,600,700,800]]",
        "<ref>x</ref><box>[[100,200,300,400],[500,600,700,800]]</box>",
    ):
        [phrase] = parse(answer, BoxFormat.THOUSAND).phrases
        assert [box.as_tuple() for box in phrase.boxes] == [pytest.approx(one) for one in two]
    read = parse(
        "<loc0102><loc0204><loc0512><loc0768> dog ; <loc0002><loc0004><loc0012><loc0068> big cat", BoxFormat.LOC
    )
    assert [one.phrase for one in read.phrases] == ["dog", "big cat"]
    assert read.plain == "dog; big cat"


@pytest.mark.parametrize(
    ("declared", "answer", "points"),
    [
        ("percent", '<point x="61.5" y="40.6" alt="dog">dog</point>', [(0.615, 0.406)]),
        ("percent", '<points x1="10" y1="20" x2="30.5" y2="40" alt="dogs">dogs</points>', [(0.1, 0.2), (0.305, 0.4)]),
        ("thousand", '<points coords="1 1 340 550 2 120 130">dogs</points>', [(0.34, 0.55), (0.12, 0.13)]),
        ("thousand", '[{"point_2d": [300, 500], "label": "dog"}]', [(0.3, 0.5)]),
        ("thousand_yx", '[{"point": [300, 500], "label": "dog"}]', [(0.5, 0.3)]),
        ("thousand", "<|box_start|>(300,500)<|box_end|>", [(0.3, 0.5)]),
        ("thousand", "(300, 500)", [(0.3, 0.5)]),
    ],
)
def test_points_are_boxes_without_area(declared: str, answer: str, points: list) -> None:
    found = find_boxes(answer, BoxFormat(declared))
    assert all(one.point for one in found)
    boxes = parse(answer, BoxFormat(declared)).boxes
    assert [(box.x1, box.y1, box.x2, box.y2) for box in boxes] == [pytest.approx(point * 2) for point in points]


@pytest.mark.parametrize(
    ("declared", "answer", "unusable"),
    [
        ("thousand", "[400, 800, 100, 200]", 1),  # the wrong way round: not turned, though it would fit then
        ("thousand", "[100, 200, 400, 1100]", 1),
        ("unit", "[10, 20, 40, 80]", 1),
        ("loc", "<loc_100><loc_200><loc_400><loc_800>", 1),  # Florence's
        ("thousand", "<loc0100><loc0200><loc0400><loc0800>", 1),  # PaliGemma's
        ("pixels", "[10, 20, 30]", 1),
        ("pixels", "[10, 20, 30, 40, 50]", 1),
        ("thousand", '[{"bbox_2d": [10, 20, 40, 60]}, {"bbox_2d": [50, 20, 70', 1),
        ("pixels", "2 dogs, 3 cats, 5 birds and 9 trees", 0),
        ("pixels", '{"color": [255, 0, 0, 255]}', 0),
        ("pixels", "There is no dog in 2 of 3 pictures (see [1]).", 0),
        ("thousand", "", 0),
    ],
)
def test_what_cannot_be_read_is_told_and_not_guessed(declared: str, answer: str, unusable: int) -> None:
    read = parse(answer, BoxFormat(declared), WIDE)
    assert len(read.malformed) == unusable
    assert len(read.boxes) == len(find_boxes(answer, BoxFormat(declared))) - unusable


def test_the_convention_decides_and_nothing_else() -> None:
    """One answer under each declaration: four different places, or none."""
    answer = "[100, 200, 400, 800]"
    read = {one: [box.as_tuple() for box in parse(answer, one, (1000, 2000)).boxes] for one in BoxFormat}
    assert read[BoxFormat.THOUSAND] == [pytest.approx(LEFT)]
    assert read[BoxFormat.THOUSAND_YX] == [pytest.approx((0.2, 0.1, 0.8, 0.4))]
    assert read[BoxFormat.PIXELS] == [pytest.approx((0.1, 0.1, 0.4, 0.4))]
    assert read[BoxFormat.LOC] == [pytest.approx((200 / 1024, 100 / 1024, 800 / 1024, 400 / 1024))]
    assert read[BoxFormat.UNIT] == read[BoxFormat.PERCENT] == read[BoxFormat.TOKENS] == []


@pytest.mark.parametrize(
    ("model", "declared"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "thousand"),
        ("qwen3-vl:8b", "thousand"),
        ("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", "resized"),
        ("Qwen/Qwen2-VL-2B-Instruct", "thousand"),
        ("qwen-vl-chat", "thousand"),
        ("OpenGVLab/InternVL3_5-8B", "thousand"),
        ("THUDM/cogvlm-grounding-generalist-hf", "thousand"),
        ("deepseek-ai/deepseek-vl2-tiny", "thousand"),
        ("microsoft/Florence-2-large", "thousand"),
        ("google/paligemma2-3b-mix-448", "loc"),
        ("models/gemini-2.5-flash", "thousand_yx"),
        ("llava-hf/llava-1.5-7b-hf", "unit"),
        ("allenai/Molmo-7B-D-0924", "percent"),
        ("fourfold-mini", "tokens"),
        ("Vision-CAIR/MiniGPT-v2", "tokens"),
        ("gpt-something", "tokens"),
    ],
)
def test_a_name_tells_the_convention(model: str, declared: str) -> None:
    assert box_format_of(model) == declared
    assert (family_of(model) is None) == model.startswith("gpt")


WRITTEN = Box(0.12, 0.3, 0.56, 0.8)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_of_the_table_while_it_arrives(family) -> None:
    """Its sample answer says what the table says, and no beginning of it shows half a box or markup."""
    for answer in (family.written, f"Here it is: {family.written} and that is all."):
        whole = parse(answer, family.box_format, WIDE)
        [box] = whole.boxes
        if box.area:
            assert box.iou(WRITTEN) > (0.93 if family.box_format is BoxFormat.PATCHES else 0.98)  # patches are large
        else:
            assert (box.x1, box.y1) == (0.34, 0.55)
        for end in range(len(answer)):
            so_far = parse_so_far(answer[:end], family.box_format, WIDE)
            assert so_far.malformed == ()
            assert so_far.boxes in ((), whole.boxes)
            assert whole.plain.startswith(so_far.plain.rstrip(" .")), answer[:end]


PIECES = re.findall(
    r"\S+",
    """[ ] ( ) { } < > , ; 12 0.5 .25 1000 - " ' ``` json <box> </box> <ref> </ref> <loc0012> <loc_12>
    <point x="1" y="2">
    {"bbox_2d": "label": "dog" [1,2,3,4] (1,2) to x1=3 y2: dog <|box_start|> <points coords="1 &lt;""",
)


MIXED = st.lists(st.sampled_from(PIECES), max_size=14)


@given(
    st.one_of(st.text(), MIXED.map(" ".join), MIXED.map("".join)),
    st.sampled_from(list(BoxFormat)),
)
def test_no_text_raises(text: str, box_format: BoxFormat) -> None:
    read = parse(text, box_format, (640, 480))
    for grounded in read.phrases:
        assert grounded.boxes
        assert 0 <= grounded.start < grounded.end <= len(read.text)
    parse_so_far(text, box_format, (640, 480))


def test_reading_is_linear_in_the_length() -> None:
    """Twenty thousand characters of each take well below a second; were it quadratic, minutes."""
    begun = time.monotonic()
    for piece in (
        "{",
        "[[1,2,",
        "[1,2,3,4]",
        "(1,2),",
        '{"x":1,',
        "1 ",
        "<ref>a",
        '<points coords="1 1 ',
        "<loc0001>",
        '{"a": {',
    ):
        parse(piece * (20_000 // len(piece)), BoxFormat.THOUSAND)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("piece", ["-0.0", "7", "1.-%+", "[1 2", "(", "<a", "{", "&", ",;", "[1,2]", "1 2,"])
def test_what_has_arrived_is_read_at_once(piece: str) -> None:
    """A row of numbers without a break can be cut into eight in more ways than there is time for."""
    text = piece * (4000 // len(piece)) + "wide"
    began = time.process_time()
    for box_format in BoxFormat:
        for end in (len(text), len(text) - 4):
            parse_so_far(text[:end], box_format, (640, 480))
            settled(text[:end], box_format)
    assert time.process_time() - began < 10


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for family in FAMILIES:
        names = ", ".join(f"`{name}`" for name in family.known_by)
        written = family.written.replace("|", "\\|")
        assert f"| {names} | `{family.box_format}` | `{written}` | `{family.name}` |" in page
