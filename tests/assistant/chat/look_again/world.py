"""Models for the loop: one that sees a small world without error, and ways of being worse than it."""

import re

import numpy as np
from PIL import Image

from fourfold.assistant.grounding import Box, format_box, format_phrase


class SeeingModel:
    """Answers truly about coloured squares: each colour is a thing ("red square").

    Attributes:
        asked: (question, size of the image) of each call.
    """

    COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}  # noqa: RUF012

    def __init__(self):
        self.asked = []

    def boxes(self, image, colour):
        pixels = (np.asarray(image) == np.array(self.COLOURS[colour])).all(axis=2)
        if not pixels.any():
            return []
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        height, width = pixels.shape
        return [Box(columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)]

    def __call__(self, messages, images):
        [message], [image] = messages, images
        assert [part["type"] for part in message["content"]] == ["image", "text"]
        text = message["content"][1]["text"]
        self.asked.append((text, image.size))
        if text.startswith("[identify]"):
            x1, y1, x2, y2 = (int(n) / 100 for n in re.findall(r"<(\d+)>", text))
            middle = image.getpixel((int((x1 + x2) / 2 * image.width), int((y1 + y2) / 2 * image.height)))
            return next(
                (f"{name} square" for name, value in self.COLOURS.items() if value == middle), "background wall"
            )
        colour = re.search("red|green|blue", text).group()
        boxes = self.boxes(image, colour)
        if text.startswith("[refer]"):
            return format_box(boxes[0]) if boxes else "nowhere"
        if text.startswith("[detection]"):
            return format_phrase(f"{colour} square", boxes) if boxes else "none"
        if "how many" in text:
            return str(len(boxes))
        return "yes" if boxes else "no"


def scene(**squares):
    """A grey 1000 x 800 image with squares: `scene(red=(x1, y1, x2, y2))` in pixels."""
    image = Image.new("RGB", (1000, 800), "grey")
    for colour, corners in squares.items():
        image.paste(SeeingModel.COLOURS[colour], corners)
    return image
