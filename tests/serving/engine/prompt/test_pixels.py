"""Pixels against transformers' image processor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from fourfold.serving.engine.prompt.pixels import PixelReader, image_settings


def processor(**changes: Any) -> CLIPImageProcessorPil:
    """As the tiny checkpoints have one."""
    options: dict[str, Any] = {
        "size": {"height": 64, "width": 64},
        "do_center_crop": False,
        "resample": 3,
        "do_convert_rgb": True,
    }
    return CLIPImageProcessorPil(**options | changes)


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    """Noise, with noise for its transparency where it has one."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(noise, "RGBA")
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    return image.convert("L" if mode == "I;16" else "RGB").convert(mode)


@pytest.mark.parametrize("size", [(90, 47), (64, 64), (1, 1), (3, 200), (700, 500)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_pixels_are_the_processors(mode: str, size: tuple[int, int]) -> None:
    image = picture(mode, size)
    expected = processor()(images=[image], return_tensors="np")["pixel_values"]
    found = PixelReader(processor().to_dict())(image)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_other_means_filters_and_shapes() -> None:
    changed = processor(
        size={"height": 32, "width": 48}, resample=2, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.2, 0.1]
    )
    image = picture("RGB", (90, 47))
    found = PixelReader(changed.to_dict())(image)
    assert found.shape == (1, 3, 32, 48)
    np.testing.assert_array_equal(found, changed(images=[image], return_tensors="np")["pixel_values"])


def test_photos(shared_data: Path) -> None:
    photos = sorted((shared_data / "photos" / "voc2012_100" / "images").iterdir())[::20]
    assert photos
    for path in photos:
        image = Image.open(path)
        expected = processor()(images=[image], return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(PixelReader(processor().to_dict())(image), expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_center_crop": True},
        {"size": {"shortest_edge": 64}},
        {"do_normalize": False},
        {"do_convert_rgb": None},
        {"image_processor_type": "SiglipImageProcessor"},
        {"do_pad": True},
        {"image_mean": None},
    ],
)
def test_what_it_does_not_do_it_does_not_know(changes: dict[str, Any]) -> None:
    assert PixelReader.knows(processor().to_dict())
    assert not PixelReader.knows(processor().to_dict() | changes)


def test_settings_of_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = image_settings(tiny_checkpoint)
    assert PixelReader.knows(settings)
    assert PixelReader(settings).size == (64, 64)
    assert image_settings(tmp_path) == {}
    processor().save_pretrained(tmp_path)  # as transformers saves it alone
    assert PixelReader.knows(image_settings(tmp_path))
