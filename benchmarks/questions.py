"""What is asked: pictures that no cache knows, and questions about them, as the engine and as a server take them."""

import io
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fourfold.assistant.images import Attachment

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "fourfold" / "samples" / "table.jpg"
SHORT = "[vqa] what is in the picture?"
LONG = "Tell me a long and detailed story about what you see, with many sentences."
MORE = "And what else?"
STORY = "Tell me a long story about a fox and a bear."
_numbers = itertools.count()


def question(text: str, *images: Image.Image | Attachment) -> dict[str, Any]:
    """A user's turn: pictures for the engine in this process, attachments for a server."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": image.data_uri}}
        if isinstance(image, Attachment)
        else {"type": "image", "image": image}
        for image in images
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def gone_on(messages: list[dict[str, Any]], answer: str) -> list[dict[str, Any]]:
    """A conversation with its answer and a further question."""
    return [*messages, {"role": "assistant", "content": answer}, question(MORE)]


def picture() -> Image.Image:
    """640 x 480 pixels of some shapes, others with every call."""
    draw_from = random.Random(next(_numbers))
    image = Image.new("RGB", (640, 480), tuple(draw_from.randbytes(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = draw_from.randrange(560), draw_from.randrange(400)
        draw.ellipse((x, y, x + 80, y + 80), fill=tuple(draw_from.randbytes(3)))
    return image


def photo(megapixels: int = 12) -> bytes:
    """A JPEG of a camera's size, of the repository's own sample picture with some grain: real detail costs time."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    with Image.open(SAMPLE) as sample:
        scaled = sample.convert("RGB").resize((height * 4 // 3, height), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).integers(-12, 12, (height, scaled.width, 3))
    return jpeg(Image.fromarray((np.asarray(scaled) + grain).clip(0, 255).astype(np.uint8)))


def jpeg(image: Image.Image) -> bytes:
    """As a camera would save it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
