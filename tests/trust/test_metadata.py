"""What a picture has beside its pixels does not come in with it, whatever its format has places for."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fourfold.assistant.images import Attachment
from fourfold.ui.state.pictures import take
from tests.trust.traces import Canary

CANARY, OTHER = Canary(1), Canary(2)


def secret_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x013B], exif[0x9286] = CANARY.words, CANARY.words, CANARY.words.encode()
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4], gps[27] = "N", (48.0, 8.0, 0.5), "E", (11.0, 34.0, 0.5), CANARY.words.encode()
    return exif


def app_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_secrets(kind: str) -> bytes:
    """A picture of the other canary with this one's words, and a picture of it, wherever its format has a place."""
    out, options, words = io.BytesIO(), dict[str, Any](), CANARY.words
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{words}</x:xmpmeta>".encode()
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", words)
        texts.add_text("Long", words * 40, zip=True)
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
        texts.add(b"prVt", words.encode())
        options = {"pnginfo": texts, "exif": secret_exif()}
    elif kind == "JPEG":
        options = {"exif": secret_exif(), "xmp": xmp, "comment": words.encode(), "quality": 95}
    elif kind == "GIF":
        options = {"comment": words.encode(), "save_all": True, "append_images": [CANARY.image.convert("P")]}
    elif kind in ("WEBP", "AVIF"):
        options = {"exif": secret_exif(), "xmp": xmp, "quality": 95}
    elif kind == "TIFF":
        options = {"description": words, "artist": words, "exif": secret_exif()}
    (OTHER.image.convert("P") if kind == "GIF" else OTHER.image).save(out, kind, **options)
    data = out.getvalue()
    if kind == "JPEG":
        thumbnail = io.BytesIO()
        CANARY.image.resize((48, 48)).save(thumbnail, "JPEG")
        extra = app_segment(0xED, b"Photoshop 3.0\0" + words.encode()) + app_segment(0xE5, thumbnail.getvalue())
        data = data[:2] + extra + data[2:]
    return data + words.encode() + CANARY.file


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP"])
def test_what_a_picture_has_beside_its_pixels(kind: str) -> None:
    data = with_secrets(kind)
    assert {"word 0", "a picture of it"} <= CANARY.in_bytes(data)
    kept = take(data, "a.picture")
    assert CANARY.in_bytes(kept.content) == set() and b"GPS" not in kept.content
    with Image.open(io.BytesIO(kept.content)) as image:
        assert not image.getexif() and not image.getexif().get_ifd(0x8825) and not image.info.get("xmp")
    whole = Attachment(data).decode()
    lossy = kind == "AVIF"  # which becomes a JPEG
    difference = np.abs(np.asarray(kept.decode(), float) - np.asarray(whole, float))
    assert difference.mean() < 8 if lossy else not difference.any()
    assert OTHER.is_shown_by(kept.decode())
