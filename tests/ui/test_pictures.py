"""Pictures on their way in lose everything but their pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError
from fourfold.ui.state.metadata import bare_png
from fourfold.ui.state.pictures import cut, shown, take, take_all
from tests.assistant.images.test_isolated import HEIC, pdf


def painted(mode: str = "RGB") -> Image.Image:
    """A picture whose upper left is red, with noise below, so that no two of its pixels can change places."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    pixels[:30, :50] = (255, 0, 0)
    return Image.fromarray(pixels).convert(mode)


def photo(kind: str = "JPEG", **options) -> bytes:
    """The picture as a file, with a place in its metadata."""
    exif = Image.Exif()
    exif[0x0112] = options.pop("orientation", 1)
    exif[0x010F] = "SECRET CAMERA"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 0.0)
    out = io.BytesIO()
    painted(options.pop("mode", "RGB")).save(out, kind, exif=exif, **options)
    return out.getvalue()


def same_pixels(kept: Attachment, data: bytes) -> bool:
    return kept.decode().tobytes() == Attachment(data).decode().tobytes()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"orientation": 6}, {"comment": b"SECRET note"}])
def test_a_photo_loses_its_metadata_and_not_a_pixel(options: dict) -> None:
    data = photo(**options)
    kept = take(data)
    assert b"SECRET" in data and b"SECRET" not in kept.content
    with Image.open(io.BytesIO(kept.content)) as image:
        assert dict(image.getexif()) == ({0x0112: 6} if options.get("orientation") else {})
    assert same_pixels(kept, data)
    assert kept.hashes & Attachment(data).hashes  # a benchmark's picture is still known as one


def test_what_stands_behind_or_between_the_scans_of_a_photo_is_left_out() -> None:
    data = photo() + b"MotionPhoto SECRET film"
    assert b"film" not in take(data).content
    assert same_pixels(take(data), data)
    data = photo(progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    data = data[:second] + b"\xff\xfe" + struct.pack(">H", 14) + b"SECRET note." + data[second:]
    assert b"note" not in take(data).content
    assert same_pixels(take(data), data)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16"])
def test_a_png_loses_its_texts_and_what_stands_behind_its_end(mode: str) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "SECRET name")
    texts.add_text("Comment", "SECRET words " * 50, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "<x>SECRET place</x>")
    out = io.BytesIO()
    profile = b"a colour profile of no meaning" * 9
    painted(mode).save(out, "PNG", pnginfo=texts, icc_profile=profile, transparency=3 if mode in ("L", "P") else None)
    data = out.getvalue()
    end = data.index(b"IDAT") - 4
    data = data[:end] + png_chunk(b"tIME", bytes(7)) + png_chunk(b"prVt", b"SECRET tool") + data[end:]
    data += b"SECRET archive behind the end"
    kept = take(data)
    assert same_pixels(kept, data)
    with Image.open(io.BytesIO(kept.content)) as image:
        assert image.info.get("icc_profile") == profile and image.mode == Image.open(io.BytesIO(data)).mode
    names, place = [], 8
    while place < len(kept.content):
        names.append(kept.content[place + 4 : place + 8])
        place += 12 + int.from_bytes(kept.content[place : place + 4], "big")
    assert set(names) <= {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP"}
    assert names[-1] == b"IEND" and place == len(kept.content) and b"SECRET" not in kept.content
    assert take(kept.content).content == kept.content


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}])
def test_a_webp_loses_its_metadata_and_what_stands_behind_its_end(mode: str, options: dict) -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>SECRET place</x:xmpmeta>"
    data = photo("WEBP", mode=mode, xmp=xmp, icc_profile=b"a profile" * 9, **options)
    data += b"HIDE" + struct.pack("<I", 12) + b"SECRET tool."
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:] + b"SECRET archive behind the end"
    kept = take(data)
    assert b"SECRET" not in kept.content and len(kept.content) == 8 + int.from_bytes(kept.content[4:8], "little")
    with Image.open(io.BytesIO(kept.content)) as image:
        assert image.format == "WEBP" and set(image.info) <= {"icc_profile", "loop", "background"}
    assert same_pixels(kept, data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_other_kinds_come_in_too(kind: str, orientation: int) -> None:
    data = photo(kind, orientation=orientation, **({"lossless": True} if kind == "WEBP" else {}))
    kept = take(data)
    assert b"SECRET" not in kept.content
    assert kept.media_type in ("image/png", "image/webp")
    assert same_pixels(kept, data)


def test_a_picture_without_metadata_stays_as_it_is() -> None:
    for kind in ("PNG", "WEBP"):
        out = io.BytesIO()
        painted().save(out, kind)
        assert take(out.getvalue()).content == out.getvalue()


@pytest.mark.parametrize("data", [b"", b"no picture", b"<svg xmlns='x'/>", photo()[:300]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(UserError, match=r"holiday\.jpg"):
        take(data, "holiday.jpg")


def test_shown_and_cut() -> None:
    # 60 wide and 100 high once it is upright; the red is in the upper right.
    picture = Attachment(photo(orientation=6))
    assert (shown(picture, 50).width, shown(picture, 50).height) == (60, 100)
    corner = cut(picture, Box(0.6, 0.0, 1.0, 0.4))
    assert corner.size == (24, 40)
    assert np.asarray(corner).mean((0, 1))[0] > 240 > 60 > np.asarray(corner).mean((0, 1))[1]


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_photos_that_few_endpoints_read_become_jpeg(kind: str) -> None:
    data = HEIC if kind == "HEIC" else photo("AVIF", quality=90, orientation=6)
    kept = take(data)
    assert kept.media_type == "image/jpeg" and b"SECRET" not in kept.content
    was, now = (np.asarray(one.decode()).astype(int) for one in (Attachment(data), kept))
    assert was.shape == now.shape and abs(was - now).mean() < 20  # it is mostly noise


def test_a_photo_without_its_end_marker_has_one_again() -> None:
    data = photo()
    assert take(data[:-2]).content == take(data).content


def test_damaged_and_oversized_things_beside_the_pixels_are_left_out() -> None:
    out = io.BytesIO()
    painted().save(out, "PNG")
    data = out.getvalue()
    profile = b"p\0\0" + zlib.compress(b"\0" * 3_000_000)
    for chunk in (png_chunk(b"iCCP", profile), png_chunk(b"gAMA", b"\0\0\xb1\x8f")[:-1] + b"?"):
        kept = take(data[:33] + chunk + data[33:])
        assert kept.content == data
        with Image.open(io.BytesIO(kept.content)) as image:
            image.load()
    assert bare_png(data[:-12]) == data


def test_what_is_too_large_to_send_becomes_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourfold.ui.state.pictures._BYTES", 3000)
    monkeypatch.setattr("fourfold.ui.state.pictures._SIDE", 40)
    for kind in ("PNG", "JPEG", "TIFF"):
        kept = take(photo(kind, orientation=6))
        assert kept.media_type == "image/jpeg" and kept.decode().size == (24, 40)


def test_files_are_sorted_out() -> None:
    pages = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    found = take_all([("a.jpg", photo()), ("one.pdf", pdf(pages[0])), ("two.pdf", pdf(*pages)), ("b.txt", b"no")])
    assert [picture.name for picture in found.pictures] == ["a.jpg", "one.pdf, page 1"]
    assert [(document.name, document.pages) for document in found.documents] == [("two.pdf", 2)]
    assert [complaint.split()[0] for complaint in found.complaints] == ["b.txt"]
