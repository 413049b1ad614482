"""The head that makes masks within boxes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.patches.mask_head import GRID, MaskHead, look, target
from fourfold.prompts.errors import UserError

WIDTH = 8


@pytest.fixture
def image() -> Image.Image:
    """Left half black, right half white."""
    picture = Image.new("RGB", (64, 48))
    picture.paste("white", (32, 0, 64, 48))
    return picture


@pytest.fixture
def features() -> np.ndarray:
    """The first number of a patch says its column."""
    made = np.zeros((4, 4, WIDTH), np.float32)
    made[..., 0] = np.arange(4)
    return made


def test_it_reads_what_lies_in_and_around_the_box(features: np.ndarray, image: Image.Image) -> None:
    patches, colours = look(features, image, [Box(0.25, 0.25, 0.75, 0.75)])
    assert patches.shape == (1, GRID, GRID, WIDTH)
    # A tenth of the box's sides around it: from 0.2 to 0.8 of the picture, cell by cell.
    at = 0.2 + 0.6 * (np.arange(GRID) + 0.5) / GRID
    expected = np.interp(at * 4 - 0.5, np.arange(4), np.arange(4))
    np.testing.assert_allclose(patches[0, 5, :, 0], expected, atol=1e-5)
    np.testing.assert_allclose(colours[0, :, at < 0.45], -0.5, atol=1e-5)
    np.testing.assert_allclose(colours[0, :, at > 0.55], 0.5, atol=1e-5)


def test_what_it_should_say_is_the_mask_in_the_same_cells(image: Image.Image) -> None:
    mask = np.asarray(image.convert("1"))
    wanted = target(mask, Box(0.25, 0.25, 0.75, 0.75))
    assert wanted.shape == (GRID, GRID)
    assert (wanted[:, : GRID // 2 - 1] == 0).all()
    assert (wanted[:, GRID // 2 + 1 :] == 1).all()
    assert (target(mask, Box(0, 0, 1, 1))[0] == 0).all(), "beyond the picture is nothing"


@pytest.mark.parametrize(
    "box", [Box(0, 0, 1, 1), Box(0.3, 0.1, 0.9, 0.35), Box(0.5, 0.5, 0.501, 0.501), Box(0.99, 0, 1, 1)]
)
def test_masks_lie_in_their_boxes_pixel_by_pixel(features: np.ndarray, image: Image.Image, box: Box) -> None:
    head = MaskHead(WIDTH).eval()
    torch.nn.init.zeros_(head.layers[-1].weight)
    torch.nn.init.constant_(head.layers[-1].bias, 3.0)  # a thing that fills its box
    [mask] = head.masks(features, image, [box])
    x1, y1, x2, y2 = (round(side) for side in box.to_pixels(image.width, image.height))
    expected = np.zeros((48, 64), bool)
    expected[min(y1, 47) : max(y2, y1 + 1), min(x1, 63) : max(x2, x1 + 1)] = True
    assert np.array_equal(mask, expected)


def test_a_mask_goes_back_to_where_it_was_seen(
    features: np.ndarray, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that says what it should say: white pixels are the thing."""
    truth, box = np.asarray(image.convert("1")), Box(0.125, 0.25, 0.875, 0.75)
    head = MaskHead(WIDTH)
    monkeypatch.setattr(head, "forward", lambda patches, colours: 20 * (target(truth, box)[None] - 0.5))
    [mask] = head.masks(features, image, [box])
    inside = np.zeros_like(truth)
    inside[12:36, 8:56] = True
    found, true = mask, truth & inside
    assert (found & true).sum() / (found | true).sum() > 0.95


def test_it_is_saved_and_loaded_in_half_precision(tmp_path: Path, features: np.ndarray, image: Image.Image) -> None:
    head, box = MaskHead(WIDTH).eval(), Box(0.1, 0.2, 0.8, 0.9)
    head.save(tmp_path / "head.safetensors", {"tower": "t"})
    again = MaskHead.load(tmp_path / "head.safetensors", "t")
    with torch.inference_mode():
        read = look(features, image, [box])
        torch.testing.assert_close(again(*read), head(*read), rtol=0.02, atol=0.02)
    with pytest.raises(UserError, match=r"taught for another image tower \(t, not u\)"):
        MaskHead.load(tmp_path / "head.safetensors", "u")
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no mask head"):
        MaskHead.load(tmp_path / "other.safetensors", "t")


def test_boxes_without_area_are_refused_and_no_boxes_are_no_masks(features: np.ndarray, image: Image.Image) -> None:
    head = MaskHead(WIDTH)
    assert head.masks(features, image, []) == []
    with pytest.raises(UserError, match="without area"):
        head.masks(features, image, [Box(0.5, 0.5, 0.5, 0.9)])
