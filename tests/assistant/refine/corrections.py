"""Pictures and records for the tests of this folder."""

import io
from typing import Any

import numpy as np
from PIL import Image

from fourfold.assistant.refine.record import Correction


def picture(seed: int = 0, side: int = 40) -> Image.Image:
    """Noise that depends on the seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def correction(number: int = 0, **fields: Any) -> Correction:
    """A correction of a colour."""
    question = f"[vqa] what colour is thing {number}?"
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},)
    return Correction(**{"messages": messages, "rejected": "red", "chosen": "blue", "consent": True} | fields)
