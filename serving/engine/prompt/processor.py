"""What stands between a request and the model: tokenizer, chat template and pixels, as a checkpoint has them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourfold.serving.engine.prompt.chat_template import ChatTemplate
from fourfold.serving.engine.prompt.isolated_template import IsolatedTemplate, chat_template
from fourfold.serving.engine.prompt.pixels import PixelReader, image_settings
from fourfold.serving.engine.prompt.tokenizer import PlainTokenizer


@dataclass(frozen=True)
class Processor:
    """The parts of transformers' processor of a checkpoint that the engine needs. Thread-safe.

    Attributes:
        tokenizer: a `PlainTokenizer`, or one of transformers where the checkpoint needs it.
        template: how a conversation is written.
        image_token: the placeholder that the template writes for an image; it is the token `image_token_id`.
        num_image_tokens: how many of them an image becomes.
        pixels: gives (1, 3, image size, image size) float32, resized and normalised.
    """

    tokenizer: Any
    template: ChatTemplate | IsolatedTemplate
    image_token: str
    image_token_id: int
    num_image_tokens: int
    pixels: Callable[[Image.Image], np.ndarray]


def read_processor(directory: Path) -> Processor:
    """The processor of a checkpoint, without transformers.

    Raises:
        OSError, ValueError, TypeError, KeyError: a file is missing or damaged, or says what transformers alone knows.
        jinja2.TemplateError: the chat template is malformed.
    """
    settings = json.loads((directory / "processor_config.json").read_text(encoding="utf-8"))
    pixels = image_settings(directory)
    if settings["processor_class"] != "MiniGPTv2Processor" or not PixelReader.knows(pixels):
        raise ValueError("it is a processor of another kind")
    tokenizer = PlainTokenizer(directory)
    source = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    (image_token_id,) = tokenizer(settings["image_token"], add_special_tokens=False)["input_ids"]
    return Processor(
        tokenizer,
        chat_template(source, tokenizer.special_tokens_map),
        settings["image_token"],
        image_token_id,
        settings["num_image_tokens"],
        PixelReader(pixels),
    )


def of_transformers(processor: Any) -> Processor:
    """The same of a `MiniGPTv2Processor`."""
    return Processor(
        processor.tokenizer,
        chat_template(processor.chat_template, processor.tokenizer.special_tokens_map),
        processor.image_token,
        processor.image_token_id,
        processor.num_image_tokens,
        lambda image: processor.image_processor(images=[image], return_tensors="np")["pixel_values"],
    )
