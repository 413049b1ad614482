"""Everything that people and attackers hand in as an image: the right picture, or one line that says what to do."""

import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fourfold.assistant.images import (
    FORMATS,
    ImageLimits,
    load_image_bytes,
    load_image_file,
)
from fourfold.prompts.errors import UserError
from tests.assistant.pictures import encode, pixels, scene


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def gif_claiming(width: int, height: int) -> bytes:
    return encode(scene(), "GIF")[:6] + struct.pack("<HH", width, height) + encode(scene(), "GIF")[10:]


def bmp_claiming(width: int, height: int) -> bytes:
    data = encode(scene(), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def tiff_claiming(width: int, height: int) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 10)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + b"\0" * 20


def jpeg_claiming(width: int, height: int) -> bytes:
    data = encode(scene(), "JPEG")
    start = data.index(b"\xff\xc0")
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def webp_claiming(width: int, height: int) -> bytes:
    # libwebp lets only animations have a canvas larger than their frames
    data = encode(scene(), "WEBP", save_all=True, append_images=[scene().rotate(180)])
    start = data.index(b"VP8X") + 12
    return data[:start] + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3] + data[start + 6 :]


BOMBS = {
    "png": png_claiming,
    "gif": gif_claiming,
    "bmp": bmp_claiming,
    "tiff": tiff_claiming,
    "jpeg": jpeg_claiming,
    "webp": webp_claiming,
}


class TestGoodPictures:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_every_allowed_format(self, kind: str) -> None:
        image = load_image_bytes(encode(scene(), kind))
        assert image.mode == "RGB" and image.size == (48, 32)
        assert abs(pixels(image) - pixels(scene())).mean() < 25  # JPEG and GIF lose a little

    def test_exact_pixels(self) -> None:
        assert (pixels(load_image_bytes(encode(scene()))) == pixels(scene())).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_exif_rotated_photos_are_upright(self, orientation: int, kind: str) -> None:
        # What a camera stores is the upright scene under the inverse of its orientation.
        undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose numbers
        stored = scene() if orientation == 1 else scene().transpose(Image.Transpose(undo[orientation]))
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
        image = load_image_bytes(encode(stored, kind, exif=exif, **options))
        assert image.size == (48, 32)
        assert abs(pixels(image) - pixels(scene())).mean() < 12
        assert ImageOps.exif_transpose(image).size == image.size  # and not a second time by someone downstream

    def test_broken_exif_is_ignored(self) -> None:
        data = encode(scene(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xee" * 40)
        assert load_image_bytes(data).size == (48, 32)

    def test_metadata_stays_behind(self) -> None:
        exif = Image.Exif()
        exif[0x010F] = "Camera of a stranger"
        assert not load_image_bytes(encode(scene(), "JPEG", exif=exif)).getexif()

    def test_a_large_jpeg_is_decoded_in_part_for_a_model(self) -> None:
        wide = scene().resize((2400, 1600), Image.Resampling.BICUBIC)
        for orientation, size in ((1, (600, 400)), (6, (400, 600))):
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = encode(wide, "JPEG", exif=exif, quality=95)
            whole, part = load_image_bytes(data), load_image_bytes(data, side=160)
            assert part.size == size  # a quarter, since an eighth would have fewer than 320 rows
            assert part.info == whole.info == {"pixels": 2400 * 1600}
            both = (pixels(image.resize((160, 160), Image.Resampling.BICUBIC)) for image in (whole, part))
            assert abs(next(both) - next(both)).mean() < 1

    def test_what_is_small_or_no_jpeg_is_decoded_whole_for_a_model(self) -> None:
        wide = scene().resize((600, 400))
        assert (pixels(load_image_bytes(encode(wide, "PNG"), side=16)) == pixels(wide)).all()
        data = encode(wide, "JPEG")
        assert (pixels(load_image_bytes(data, side=201)) == pixels(load_image_bytes(data))).all()

    def test_16_bit_grey_is_scaled_not_clipped(self) -> None:
        ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
        for kind in ("PNG", "TIFF"):
            image = load_image_bytes(encode(Image.fromarray(ramp), kind))
            expected = np.round(ramp / 257).astype(int)
            assert (pixels(image) == expected[..., None]).all()

    def test_16_bit_rgb_png(self) -> None:
        rows = b"".join(b"\0" + struct.pack(">6H", 0, 32768, 65535, 65535, 0, 256) for _ in range(2))
        header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        image = load_image_bytes(data)
        assert abs(pixels(image)[0] - [[0, 128, 255], [255, 0, 1]]).max() <= 1

    def test_cmyk(self) -> None:
        for kind in ("JPEG", "TIFF"):
            image = load_image_bytes(encode(scene().convert("CMYK"), kind))
            assert abs(pixels(image) - pixels(scene())).mean() < 25

    def test_transparency_is_white(self) -> None:
        rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
        rgba.putpixel((0, 0), (0, 0, 255, 255))
        rgba.putpixel((1, 0), (0, 0, 0, 128))
        for kind in ("PNG", "WEBP"):
            image = load_image_bytes(encode(rgba, kind, **({"lossless": True} if kind == "WEBP" else {})))
            assert image.getpixel((3, 3)) == (255, 255, 255)
            assert image.getpixel((0, 0)) == (0, 0, 255)
            assert image.getpixel((1, 0)) == (127, 127, 127)

    def test_palette_with_transparent_colour_is_white(self) -> None:
        image = Image.new("P", (4, 4), 1)
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.putpixel((0, 0), 0)
        for kind in ("PNG", "GIF"):
            loaded = load_image_bytes(encode(image, kind, transparency=1))
            assert loaded.getpixel((0, 0)) == (255, 0, 0)
            assert loaded.getpixel((3, 3)) == (255, 255, 255)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
    def test_other_modes(self, mode: str) -> None:
        image = load_image_bytes(encode(scene().convert(mode)))
        assert image.mode == "RGB"
        grey = mode in ("L", "LA")
        if mode != "1":
            assert (abs(pixels(image) - pixels(scene().convert("L").convert("RGB") if grey else scene())) <= 1).all()

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_animation_gives_its_first_frame(self, kind: str) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert load_image_bytes(data).getpixel((4, 4)) == (255, 0, 0)

    def test_trailing_polyglot_is_only_its_pixels(self) -> None:
        data = encode(scene()) + b"PK\x03\x04<script>alert(1)</script>%PDF-1.7"
        assert (pixels(load_image_bytes(data)) == pixels(scene())).all()

    def test_file(self, tmp_path: Path) -> None:
        path = tmp_path / "photo with no useful ending.txt"
        path.write_bytes(encode(scene()))
        assert (pixels(load_image_file(path)) == pixels(scene())).all()
        assert (pixels(load_image_file(str(path))) == pixels(scene())).all()


class TestBombs:
    @pytest.mark.parametrize("kind", BOMBS)
    @pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 5_201)])
    def test_refused_from_the_header(self, kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        width, height = size
        if kind == "jpeg" and height < 10_000:  # it may have four times as many
            width, height = 2 * width, 2 * height + 2
        data = BOMBS[kind](width, height)
        assert len(data) < 10_000

        def never(*_: object, **__: object) -> None:
            raise AssertionError("decoded before the size was checked")

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
        monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", never)
        monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", never)
        with pytest.raises(UserError, match="pixels") as error:
            load_image_bytes(data, "holiday.png")
        assert "holiday.png" in str(error.value) and "\n" not in str(error.value)

    def test_long_strip(self) -> None:
        with pytest.raises(UserError, match="a side"):
            load_image_bytes(png_claiming(1_000_000, 1))

    def test_progressive_jpeg_with_endless_scans(self) -> None:
        data = encode(scene(), "JPEG", progressive=True)
        start = data.rindex(b"\xff\xda")
        scan = data[start:-2]
        with pytest.raises(UserError, match="scans"):
            load_image_bytes(data[:start] + scan * 1000 + b"\xff\xd9")

    def test_byte_cap(self) -> None:
        limits = ImageLimits(bytes=100)
        with pytest.raises(UserError, match="MiB"):
            load_image_bytes(encode(scene()), limits=limits)

    def test_caps_are_inclusive(self) -> None:
        data = encode(scene())
        limits = ImageLimits(bytes=len(data), pixels=48 * 32, side=48)
        assert load_image_bytes(data, limits=limits).size == (48, 32)
        for smaller in (
            ImageLimits(bytes=len(data) - 1),
            ImageLimits(pixels=48 * 32 - 1),
            ImageLimits(side=47),
        ):
            with pytest.raises(UserError):
                load_image_bytes(data, limits=smaller)


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
NOT_IMAGES = {
    "empty": (b"", "is empty"),
    "text": (b"hello, I am an image, believe me", "not an image"),
    "svg": (SVG, "SVG"),
    "bare svg": (b"  <svg onload='alert(1)'/>", "SVG"),
    "svg with a mark": (b"\xef\xbb\xbf" + SVG, "SVG"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", "not an image"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n", "is a PDF"),
    "html": (b"<!doctype html><html></html>", "not an image"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, "not an image"),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "is a video"),
    "zeros": (b"\0" * 1000, "not an image"),
    "magic only": (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
    "gif header only": (b"GIF89a", "not an image|damaged"),
    "no pixels": (png_claiming(0, 0), "not an image|damaged"),
}


class TestBadPictures:
    @pytest.mark.parametrize("case", NOT_IMAGES)
    def test_not_an_image(self, case: str) -> None:
        data, message = NOT_IMAGES[case]
        with pytest.raises(UserError, match=message) as error:
            load_image_bytes(data)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("kind", FORMATS)
    def test_cut_short(self, kind: str) -> None:
        noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
        data = encode(noise, kind)
        for part in (0.3, 0.6, 0.9):
            with pytest.raises(UserError):
                load_image_bytes(data[: int(len(data) * part)])

    def test_cut_jpeg_says_so(self) -> None:
        noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
        data = encode(noise, "JPEG")
        with pytest.raises(UserError, match="cut short"):
            load_image_bytes(data[: len(data) // 2], "photo.jpg")

    def test_float_and_32_bit_are_refused_with_advice(self) -> None:
        for array in (np.ones((4, 4), np.float32), np.full((4, 4), 2**30, np.int32)):
            with pytest.raises(UserError, match="8 bits"):
                load_image_bytes(encode(Image.fromarray(array), "TIFF"))

    def test_files(self, tmp_path: Path) -> None:
        (tmp_path / "empty.png").touch()
        os.mkfifo(tmp_path / "pipe")
        cases = {
            "missing.png": "does not exist",
            ".": "is a directory",
            "empty.png": "is empty",
            "pipe": "not a regular file",
            "empty.png/below": "cannot be read",
            "a" * 300: "cannot be read",
        }
        for name, message in cases.items():
            with pytest.raises(UserError, match=message):
                load_image_file(tmp_path / name)
        with pytest.raises(UserError):
            load_image_file("nul\0byte")

    def test_large_file_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "large").open("wb") as file:
            file.truncate(2**40)  # sparse
        with pytest.raises(UserError, match="MiB"):
            load_image_file(tmp_path / "large")

    def test_names_cannot_forge_lines(self) -> None:
        with pytest.raises(UserError) as error:
            load_image_bytes(b"", "a.png\r\nX-Admin: yes\x1b[2J" + "b" * 1000)
        assert str(error.value).isprintable() and len(str(error.value)) < 300

    @given(st.binary(max_size=300), st.sampled_from([b"", *(encode(scene(8, 8), kind) for kind in FORMATS)]), st.data())
    @settings(max_examples=300, deadline=None)
    def test_any_bytes_give_a_picture_or_a_user_error(self, junk: bytes, start: bytes, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(start)))
        try:
            image = load_image_bytes(start[:at] + junk + start[at + len(junk) :])
        except UserError as error:
            assert str(error).isprintable()
        else:
            assert image.mode == "RGB"
