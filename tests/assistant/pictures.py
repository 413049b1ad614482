"""Small pictures, encoded and taken apart."""

import io

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = 48, height: int = 32) -> Image.Image:
    """Red left half, blue right half, a green bar on top: every rotation looks different."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    image.paste((0, 255, 0), (0, 0, width, height // 4))
    return image


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)
