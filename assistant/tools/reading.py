"""What is written in a picture, as a tool gives it back."""

from PIL import Image

from fourfold.assistant.chat import look_again
from fourfold.assistant.tools.results import Line, Text


def read_text(image: Image.Image) -> Text:
    """The lines of text in a picture, from top to bottom.

    Raises:
        UserError: the extra `ocr` is not installed.
    """
    lines = look_again.read_text(image)
    return Text(lines=tuple(Line(text=one.text, box=one.box, confidence=one.score) for one in lines))
