"""A checkpoint's image tower alone, for what asks no language model."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

import fourfold.assistant.model  # noqa: F401 - registers the architecture
from fourfold.assistant.readouts.features import normalised


class Tower:
    """Features of pictures.

    Args:
        checkpoint: its directory.
    """

    def __init__(self, checkpoint: Path) -> None:
        logging.disable_progress_bar()  # a second of loading
        self._model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
        del self._model.model.language_model, self._model.lm_head
        self._pixels = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=False).image_processor

    @property
    def width(self) -> int:
        """Of its features."""
        return int(self._model.config.vision_config.hidden_size)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(rows, columns, width) of an RGB picture, as read-outs take them."""
        pixels = self._pixels(image, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            [patches] = self._model.model.encode_images(pixels)
        side = self._model.config.grid_width
        return normalised(patches.numpy().reshape(side, side, -1))
