"""Pixels are called by the name that people would use."""

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.english import COLOURS
from fourfold.assistant.readouts.paint import colour_shares, to_lab


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 0, 0), "red"), ((0, 0, 255), "blue"), ((0, 128, 0), "green"), ((255, 255, 0), "yellow"),
        ((255, 255, 255), "white"), ((0, 0, 0), "black"), ((139, 69, 19), "brown"), ((255, 140, 0), "orange"),
        ((255, 105, 180), "pink"), ((128, 0, 128), "purple"), ((128, 128, 128), "gray"), ((210, 180, 140), "tan"),
    ],
)  # fmt: skip
def test_a_plain_picture_has_one_colour(rgb: tuple[int, int, int], name: str) -> None:
    shares = colour_shares(Image.new("RGB", (50, 30), rgb), np.full((2, 3), 1 / 6))
    assert set(shares) == set(COLOURS) and sum(shares.values()) == pytest.approx(1)
    assert shares[name] == pytest.approx(1)


def test_only_what_has_weight_counts() -> None:
    picture = Image.new("RGB", (64, 64), "red")
    picture.paste("blue", (0, 0, 32, 64))
    left, right = np.array([[1.0, 0.0]]), np.array([[0.25, 0.75]])
    assert colour_shares(picture, left)["blue"] > 0.9
    assert colour_shares(picture, right)["red"] == pytest.approx(0.75, abs=0.05)


def test_lab_of_known_colours() -> None:
    """Values as published for sRGB's primaries (D65)."""
    red, green, blue = (53.24, 80.09, 67.20), (87.73, -86.18, 83.18), (32.30, 79.19, -107.86)
    np.testing.assert_allclose(to_lab(255 * np.eye(3)), [red, green, blue], atol=0.15)
