import io

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.pictures import identify
from fourfold.prompts.errors import UserError
from fourfold.ui.state.pictures import cut, decoded, shown, take


def photo(kind: str = "JPEG", **options) -> bytes:
    """A picture whose upper left is red, with a place in its metadata."""
    pixels = np.full((60, 100, 3), 200, np.uint8)
    pixels[:30, :50] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = options.pop("orientation", 1)
    exif[0x010F] = "SECRET CAMERA"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 0.0)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, exif=exif, **options)
    return out.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"orientation": 6}, {"comment": b"SECRET note"}])
def test_a_photo_loses_its_metadata_and_not_a_pixel(options: dict) -> None:
    data = photo(**options)
    kept = take(data)
    assert b"SECRET" in data and b"SECRET" not in kept
    with Image.open(io.BytesIO(kept)) as image:
        assert dict(image.getexif()) == ({0x0112: 6} if options.get("orientation") else {})
    assert decoded(kept).tobytes() == decoded(data).tobytes()
    assert identify(kept).marks & identify(data).marks  # a benchmark's picture is still known as one


def test_what_stands_behind_a_photo_is_left_out() -> None:
    data = photo() + b"MotionPhoto SECRET film"
    assert b"film" not in take(data)
    assert decoded(take(data)).size == (100, 60)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_kinds_come_in_too(kind: str) -> None:
    data = photo(kind, **({"lossless": True} if kind == "WEBP" else {}))
    kept = take(data)
    assert b"SECRET" not in kept
    with Image.open(io.BytesIO(kept)) as image:
        assert image.format in ("PNG", "WEBP")
    assert decoded(kept).size == (100, 60)


def test_a_png_without_metadata_stays_as_it_is() -> None:
    out = io.BytesIO()
    Image.new("RGB", (9, 9), "blue").save(out, "PNG")
    assert take(out.getvalue()) == out.getvalue()


@pytest.mark.parametrize("data", [b"", b"no picture", b"<svg xmlns='x'/>", photo()[:300]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(UserError, match=r"holiday\.jpg"):
        take(data, "holiday.jpg")


def test_shown_and_cut() -> None:
    data = photo(orientation=6)  # 60 wide and 100 high once it is upright; the red is in the upper right
    picture = shown(data, 50)
    assert (picture.width, picture.height) == (60, 100)
    corner = cut(data, Box(0.6, 0.0, 1.0, 0.4))
    assert corner.size == (24, 40)
    assert np.asarray(corner).mean((0, 1))[0] > 240 > 60 > np.asarray(corner).mean((0, 1))[1]
