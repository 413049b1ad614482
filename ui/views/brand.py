"""The page's sign: four small squares, of which one stands for all."""

from functools import cache

from PIL import Image, ImageDraw

_FINE = 4  # drawn larger, then averaged down


@cache
def icon(side: int = 64) -> Image.Image:
    """The sign, `side` pixels square, RGBA. Made here because Streamlit fetches its own icons from the network."""
    large = side * _FINE
    image = Image.new("RGBA", (large, large))
    pen = ImageDraw.Draw(image)
    gap, edge = large // 14, large // 16
    half = (large - 2 * edge - gap) // 2
    for row in range(2):
        for column in range(2):
            x, y = edge + column * (half + gap), edge + row * (half + gap)
            colour = (230, 159, 0, 255) if (row, column) == (0, 1) else (15, 118, 110, 255)
            pen.rounded_rectangle((x, y, x + half, y + half), half // 4, fill=colour)
    return image.resize((side, side), Image.Resampling.LANCZOS)
