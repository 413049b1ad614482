"""What makes a correction, and what does not."""

import json
import math

import pytest

from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.record import MAX_TEXT, CorrectedBox, Correction, check, from_fields, to_fields
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction


def test_a_record_is_the_same_after_json() -> None:
    boxes = (CorrectedBox("a dög", Box(0.1, 1 / 3, 0.2, 1.0)), CorrectedBox(None, Box(0, 0, 0, 0)))
    said = correction(
        id="a-b_1", boxes=boxes, chosen=None, model="m", adapter="a", parameters={"temperature": 0.1}, created=1.5
    )
    check(said)
    fields = json.loads(json.dumps(to_fields(said)))
    assert from_fields(fields, said.image) == said
    assert from_fields({**fields, "boxes": []}).boxes == ()
    assert said.question == "[vqa] what colour is thing 0?"


def test_what_a_hand_written_line_leaves_out_has_defaults() -> None:
    fields = {"messages": list(correction().messages), "rejected": "a", "chosen": "b", "consent": True}
    assert from_fields(fields) == Correction(
        messages=correction().messages, rejected="a", chosen="b", consent=True, verdict="down", boxes=None
    )
    assert not from_fields({**fields, "consent": False}).remember


def test_records_that_were_stored_before_are_still_read() -> None:
    """As the store and exports of 0.1 hold them."""
    line = (
        '{"messages": [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "image"},'
        ' {"type": "text",'
        ' "text": "[detection] dog"}]}, {"role": "assistant", "content": ""}, {"role": "user", "content": "and now?"}],'
        ' "rejected": "", "chosen": null, "boxes": [{"phrase": null, "box": [0, 0.25, 1, 1.0]}], "consent": false,'
        ' "verdict": "down", "model": "m", "adapter": null, "parameters": {"stop": ["x"], "top_p": 1}, "created": 5,'
        ' "id": "0123456789abcdef"}'
    )
    read = from_fields(json.loads(line), "a" * 64)
    assert read.boxes == (CorrectedBox(None, Box(0, 0.25, 1, 1)),)
    assert (read.question, read.parameters, read.created) == ("and now?", {"stop": ["x"], "top_p": 1}, 5)
    # Consent was for remembering too.
    assert json.loads(json.dumps(to_fields(read))) == {**json.loads(line), "remember": False}
    assert from_fields({**json.loads(line), "consent": True}).remember


IMAGE = {"type": "image"}


def asked(*parts: object, role: str = "user") -> tuple:
    return ({"role": role, "content": list(parts)},)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "../../x"}, r"^id: "),
        ({"id": 7}, r"^id: "),
        ({"messages": ()}, "messages: .* at least 1"),
        ({"messages": "hello"}, "messages: "),
        ({"messages": ("hello",)}, r"messages\[0\]"),
        ({"messages": asked(IMAGE, {"type": "text", "text": "x"}, role="tool")}, r"messages\[0\]\.role: "),
        ({"messages": asked(IMAGE, {"type": "text", "text": "x"}, role=["user"])}, r"messages\[0\]\.role: "),
        ({"messages": asked({"type": "text", "text": "x"})}, "no message shows the image"),
        ({"messages": asked(IMAGE)}, "the user's question"),
        ({"messages": asked(IMAGE, {"type": "text", "text": "  "})}, r"messages\[0\]\.content\[1\]\.text: is empty"),
        ({"messages": asked(IMAGE, {"type": "text", "text": 3})}, r"messages\[0\]\.content\[1\]\.text: .* string"),
        ({"messages": asked(IMAGE, {"type": "image_url", "image_url": "x"})}, r"content\[1\]\.type: "),
        (
            {"messages": asked({**IMAGE, "image": b"x"}, {"type": "text", "text": "x"})},
            r"content\[0\]\.image is unknown",
        ),
        ({"messages": asked(IMAGE, {"type": "text"})}, r"content\[1\]: must be"),
        ({"messages": ({"role": "user", "content": ""}, *correction().messages)}, r"messages\[0\]\.content: is empty"),
        ({"messages": (*correction().messages, {"role": "assistant", "content": "x"})}, "the user's question"),
        (
            {"messages": ({"role": "assistant", "content": [IMAGE]}, *correction().messages)},
            r"messages\[0\]\.content: only a user's message shows an image",
        ),
        ({"messages": correction().messages * 201}, "messages: .* at most 200"),
        ({"rejected": None}, "rejected: .* string"),
        ({"rejected": "x" * (MAX_TEXT + 1)}, "rejected: .* at most 20000 characters"),
        ({"chosen": " "}, "chosen: is empty"),
        ({"chosen": "red "}, "nothing is corrected"),
        ({"chosen": "\ud83d"}, "chosen: .* unicode"),
        ({"boxes": (CorrectedBox("", Box(0, 0, 1, 1)),)}, r"boxes\[0\]\.phrase: is empty"),
        ({"verdict": "sideways"}, "verdict"),
        ({"verdict": ["up"]}, "verdict"),
        ({"verdict": "up"}, "right as it is"),
        ({"consent": 1}, "consent"),
        ({"consent": None}, "consent"),
        ({"model": None}, "model"),
        ({"adapter": 3}, "adapter"),
        ({"parameters": [1]}, "parameters"),
        ({"parameters": {"x": math.nan}}, "finite"),
        ({"parameters": {"x": {1, 2}}}, "JSON values"),
        ({"parameters": {"x": "y" * MAX_TEXT}}, "parameters: must be shorter"),
        ({"created": math.nan}, "created"),
        ({"created": True}, "created"),
        ({"created": "now"}, "created"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict, message: str) -> None:
    check(correction())
    with pytest.raises(UserError, match=message):
        check(correction(**fields))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ("none", "boxes: "),
        ([[0, 0, 1, 1]], r"boxes\[0\]: must be a mapping"),
        ([{"phrase": "x", "box": [0, 0, 1, 1], "score": 1}], r"boxes\[0\]\.score is unknown"),
        ([{"phrase": "x"}], r"boxes\[0\]\.box is missing"),
        ([{"box": [0, 0, 1]}], "four numbers"),
        ([{"box": [0, 0, 1, "1"]}], "four numbers"),
        ([{"box": [0, 0, 1, True]}], "four numbers"),
        ([{"box": [0, 0, 1, 1]}, {"box": [0, 0, 1, math.nan]}], r"boxes\[1\]\.box: must be \[x1"),
        ([{"box": [0, 0, 1, math.inf]}], "parts of the image"),
        ([{"box": [0, 0, 1, 10**400]}], "parts of the image"),
        ([{"box": [0.5, 0, 0.4, 1]}], "parts of the image"),
        ([{"box": [0, 0, 64, 48]}], "parts of the image"),
        ([{"phrase": 3, "box": [0, 0, 1, 1]}], r"boxes\[0\]\.phrase: .* string"),
    ],
)
def test_boxes_that_are_none_are_refused(boxes: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(from_fields({**to_fields(correction()), "boxes": boxes}))


def test_missing_and_unknown_fields_are_named() -> None:
    fields = to_fields(correction())
    for name in ("messages", "rejected", "consent"):
        with pytest.raises(UserError, match=f"^{name} is missing"):
            from_fields({key: value for key, value in fields.items() if key != name})
    with pytest.raises(UserError, match="'choosen' is no field"):
        from_fields({**fields, "choosen": "x"})
