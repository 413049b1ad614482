"""Boxes drawn on an image, with their labels."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from fourfold.assistant.grounding.box import Box
from fourfold.assistant.grounding.grounded import GroundedPhrase

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
            if (x1, y1) == (x2, y2):  # a point
                pen.ellipse((x1 - 2 * line, y1 - 2 * line, x1 + 2 * line, y1 + 2 * line), fill=colour)
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
