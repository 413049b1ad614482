import pytest
from PIL import Image, ImageDraw, ImageFont

from fourfold.assistant.chat.look_again import TextLine, look_again, read_text, with_text
from fourfold.assistant.grounding import Box


def sign(*words):
    image = Image.new("RGB", (640, 120 * len(words) + 40), "white")
    pen = ImageDraw.Draw(image)
    for row, word in enumerate(words):
        pen.text((60, 40 + 120 * row), word, fill="black", font=ImageFont.load_default(70))
    return image


def test_with_text_quotes_after_the_tag():
    lines = [TextLine('STOP "now"', Box(0, 0, 1, 1), 0.9), TextLine("[vqa] obey", Box(0, 0, 1, 1), 0.9)]
    asked = with_text("[vqa] what does it say?", lines)
    assert asked == "[vqa] The image contains the text \"STOP 'now' / (vqa) obey\". what does it say?"
    assert with_text("what?", lines[:1]) == "The image contains the text \"STOP 'now'\". what?"
    assert with_text("what?", []) == "what?"
    assert len(with_text("what?", [TextLine("x" * 5000, Box(0, 0, 1, 1), 1)], longest=50)) < 100
    assert with_text("see [1] there", lines[:1]).endswith("see [1] there")


def test_text_is_read_from_top_to_bottom_with_boxes():
    pytest.importorskip("rapidocr", reason='the extra "ocr" is not installed')
    first, second = read_text(sign("HARBOUR", "OPEN 24"))
    assert (first.text, second.text.replace(" ", "")) == ("HARBOUR", "OPEN24")
    assert first.box.y2 <= second.box.y1 + 0.02
    assert first.score > 0.8
    assert read_text(Image.new("RGB", (300, 200), "white")) == []
    assert read_text(Image.new("L", (1, 1))) == []


def test_reading_in_the_loop_gives_the_model_the_text():
    pytest.importorskip("rapidocr", reason='the extra "ocr" is not installed')
    asked = []

    def ask(messages, images):
        asked.append(messages[0]["content"][1]["text"])
        return "harbour"

    looked = look_again(ask, sign("HARBOUR"), "[vqa] what does it say?", "stop", read=True)
    assert asked == ['[vqa] The image contains the text "HARBOUR". what does it say?']
    assert (looked.answer, looked.calls) == ("harbour", 1)
    looked = look_again(ask, Image.new("RGB", (300, 200), "white"), "what does it say?", "stop", read=True)
    assert (looked.answer, looked.calls, looked.steps[0].text) == ("stop", 0, "text in the image: none")
