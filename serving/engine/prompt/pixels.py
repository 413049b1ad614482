"""Pictures to what the image tower sees, as transformers' image processor makes it but without transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_TYPES = frozenset({"CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"})
_STEPS = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize")


class PixelReader:
    """Squashes pictures to the tower's size and normalises them; bit for bit what transformers' PIL processor gives.

    Args:
        settings: of a `CLIPImageProcessor` as it saves them; see `knows`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.size: tuple[int, int] = settings["size"]["width"], settings["size"]["height"]
        self._resample = Image.Resampling(settings["resample"])
        # A byte has 256 values, so this is all there is to compute; each step rounds as the processor's do.
        values = (np.arange(256) * settings["rescale_factor"]).astype(np.float32)
        mean, std = (np.asarray(settings[name], np.float32)[:, None] for name in ("image_mean", "image_std"))
        self._table = (values - mean) / std

    @staticmethod
    def knows(settings: Mapping[str, Any]) -> bool:
        """Whether pictures are squashed without cropping, then scaled and normalised: what this class does."""
        return (
            settings.get("image_processor_type") in _TYPES
            and all(settings.get(step) is True for step in _STEPS)
            and settings.get("do_center_crop") is False
            and not settings.get("do_pad")
            and isinstance(settings.get("resample"), int)
            and isinstance(settings.get("rescale_factor"), float)
            and all(len(settings.get(name) or ()) == 3 for name in ("image_mean", "image_std"))
            and {"height", "width"} == {name for name, value in settings.get("size", {}).items() if value}
        )

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(1, 3, height, width), float32, of a picture of any mode and size."""
        pixels = np.asarray(image.convert("RGB").resize(self.size, self._resample))
        planes = [table[pixels[..., channel]] for channel, table in enumerate(self._table)]
        return np.stack(planes)[None]


def image_settings(directory: Path) -> dict[str, Any]:
    """What a checkpoint says of its image processor; empty where it says nothing.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is no JSON object.
    """
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        path = directory / name
        if path.exists():
            said = json.loads(path.read_text(encoding="utf-8"))
            found = said.get(key) if key else said
            if isinstance(found, dict):
                return found
    return {}
