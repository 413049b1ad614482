"""Grey and colours of more than 8 bits a channel: scaled by their depth, or refused."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.images import Attachment, load_image_bytes, load_image_file
from fourfold.prompts.errors import UserError
from tests.assistant.pictures import encode, pixels, scene

CASES = Path(os.environ.get("FOURFOLD_CASES", "../shared/cases")) / "images"
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1


def ramp(most: int) -> np.ndarray:
    return np.linspace(0, most, 64).round().astype(np.int64).reshape(8, 8)


def tiff(values: np.ndarray, bits: int, photometric: int = BLACK_IS_ZERO) -> bytes:
    """A grey TIFF; 12 bits are packed, two values in three bytes."""
    if bits == 12:
        pairs = values.reshape(-1, 2)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        body = packed.astype(np.uint8).tobytes()
    else:
        body = values.astype({16: "<u2", 32: "<i4"}[bits]).tobytes()
    height, width = values.shape
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, height), (279, 4, len(body))] + ([(339, 3, 2)] if bits == 32 else [])
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(entries)) + table + b"\0" * 4


@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("bits", [16, 32])
def test_grey_is_scaled_by_its_depth(depth: int, bits: int) -> None:
    values = ramp(2**depth - 1)
    found = pixels(load_image_bytes(tiff(values, bits)))
    assert (found == np.floor(values * 255 / (2**depth - 1) + 0.5).astype(int)[..., None]).all()


def test_a_declared_depth_is_believed() -> None:
    dark = ramp(500)
    found = pixels(load_image_bytes(tiff(dark, 12)))
    assert abs(found - dark[..., None] * 255 / 4095).max() <= 0.51


@pytest.mark.parametrize("depth", [12, 16])
def test_white_is_zero_in_16_bits_as_in_8(depth: int) -> None:
    values = ramp(2**depth - 1)
    found = pixels(load_image_bytes(tiff(values, 16, WHITE_IS_ZERO)))
    assert (found == 255 - pixels(load_image_bytes(tiff(values, 16)))).all()
    eight = Image.fromarray(np.round(values * 255 / (2**depth - 1)).astype(np.uint8))
    inverted = load_image_bytes(encode(eight, "TIFF", tiffinfo={262: WHITE_IS_ZERO}))
    assert abs(found - (255 - pixels(eight)[..., None])).max() <= 1
    assert (pixels(inverted) == 255 - pixels(eight)[..., None]).all() or (
        pixels(inverted) == pixels(eight)[..., None]
    ).all()  # as Pillow writes it


def test_turned_and_deep_at_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.repeat(ramp(4095), 2, axis=1).astype(np.uint16)
    data = encode(Image.fromarray(wide), "TIFF", exif=exif)
    assert load_image_bytes(data).size == (8, 16)
    assert pixels(load_image_bytes(data)).max() == 255
    assert Attachment(data).hashes


def test_values_that_no_depth_explains_are_refused() -> None:
    for values in (np.full((4, 4), 70_000), np.full((4, 4), -1)):
        with pytest.raises(UserError, match="32-bit pixels"):
            load_image_bytes(tiff(values, 32))


def deep_colours(most: int) -> bytes:
    """A PNG of 16 bits a channel whose values go up to `most`."""
    rows = b"".join(b"\0" + struct.pack(">6H", 0, most // 2, most, most, 0, 1) for _ in range(2))
    body = [(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in body)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_colours_of_few_bits_in_16_are_refused_and_not_shown_black() -> None:
    for most in (1023, 4095):
        with pytest.raises(UserError, match="12 bits or fewer"):
            load_image_bytes(deep_colours(most), "scan.png")
    assert pixels(load_image_bytes(deep_colours(65535))).max() == 255
    assert not pixels(load_image_bytes(deep_colours(2))).any()  # as good as black


def test_files_that_were_dark_or_negative() -> None:
    if not CASES.is_dir():
        pytest.skip("the cases of other people's reports are not here")
    right = pixels(load_image_file(CASES / "tiff8_miniswhite.tiff"))
    for name in ("tiff16_miniswhite.tiff", "tiff12bit.tiff", "int32.tiff"):
        assert abs(pixels(load_image_file(CASES / name)) - right).max() <= 1, name


def test_eight_bits_stay_what_they_are() -> None:
    assert (pixels(load_image_bytes(encode(scene(), "TIFF"))) == pixels(scene())).all()
