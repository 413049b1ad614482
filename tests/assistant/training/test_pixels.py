import numpy as np
import pytest
import torch
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.training.data.sample import ImageRef, View
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.assistant.training.pixels import load_pixels

LANCZOS = Image.Resampling.LANCZOS


@pytest.fixture
def images(tmp_path, monkeypatch) -> list[ImageRef]:
    """Views of a photo and scenes: 23, so that with two processes every place for a batch of two is used again."""
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos" / "noise.png")
    monkeypatch.setenv("FOURFOLD_DATA", str(tmp_path))
    crops = [Box(n / 20, 0.1, 0.6 + n / 40, 0.9) for n in range(12)]
    views = [ImageRef("noise", "noise.png", view=View(crop, flip=n % 2 == 1)) for n, crop in enumerate(crops)]
    return views + [ImageRef(f"s{n}", scene=make_scene(f"s{n}")) for n in range(11)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [2, 40])
def test_every_image_comes_squashed_and_in_order(images, workers, batch_size) -> None:
    made = [batch.clone() for batch in load_pixels(images, (40, 30), LANCZOS, batch_size, workers)]
    assert [len(batch) for batch in made] == ([2] * 11 + [1] if batch_size == 2 else [23])
    expected = np.stack([np.asarray(image.open().resize((40, 30), LANCZOS)) for image in images])
    assert torch.cat(made).dtype == torch.uint8 and np.array_equal(torch.cat(made).numpy(), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_not_there_is_an_error(images, workers) -> None:
    images[9] = ImageRef("gone", "gone.png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        list(load_pixels(images, (40, 30), LANCZOS, 2, workers))
