"""An image as it travels: files, data URIs and what is kept of it."""

import base64
import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from fourfold.assistant.images import (
    FORMATS,
    Attachment,
    ImageLimits,
    decode_data_uri,
    image_url,
    pixel_hash,
)
from fourfold.prompts.errors import UserError
from tests.assistant.pictures import encode, pixels, scene


class TestDataUris:
    def test_decodes(self) -> None:
        data = encode(scene())
        text = base64.b64encode(data).decode()
        for uri in (
            f"data:image/png;base64,{text}",
            f"DATA:image/PNG;charset=utf-8;BASE64,{text}",
            f"data:;base64,{text}",
            "data:image/png;base64," + "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        ):
            assert decode_data_uri(uri) == data

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("https://example.com/a.png", "must be a data URI"),
            ("file:///etc/passwd", "must be a data URI"),
            ("/etc/passwd", "must be a data URI"),
            ("", "must be a data URI"),
            ("data:image/png,%89PNG", "must be a data URI"),
            ("data:image/png;base64", "must be a data URI"),
            ("data:text/html;base64,aGk=", "text/html"),
            ("data:image/png;base64,", "is empty"),
            ("data:image/png;base64,@@@@", "not valid base64"),
            ("data:image/png;base64,aGk", "not valid base64"),
            ("data:image/png;base64,aGk=\u00e9", "not valid base64"),
        ],
    )
    def test_refuses(self, uri: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            decode_data_uri(uri)

    def test_length_is_checked_before_decoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(base64, "b64decode", None)
        with pytest.raises(UserError, match="MiB"):
            decode_data_uri("data:image/png;base64," + "A" * 2**20, limits=ImageLimits(bytes=2**19))


def stored_hashes(data: bytes) -> set[str]:
    """What the stores of the first release hold for a file."""

    def of(image: Image.Image) -> str:
        size = f"{image.width}x{image.height}:".encode()
        return "pixels:" + hashlib.sha256(size + image.convert("RGBA").tobytes()).hexdigest()

    image = Image.open(io.BytesIO(data))
    stored = of(image)
    return {f"bytes:{hashlib.sha256(data).hexdigest()}", stored, of(ImageOps.exif_transpose(image))}


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


class TestAttachment:
    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize("rotated", [False, True])
    def test_hashes_are_those_that_stores_hold(self, kind: str, rotated: bool) -> None:
        options = {"exif": turned()} if rotated and kind in ("PNG", "JPEG", "WEBP") else {}
        data = encode(scene(), kind, **options)
        assert Attachment(data).hashes == stored_hashes(data)

    @pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
    def test_hashes_of_other_modes_hold_those_of_stores(self, mode: str) -> None:
        image = scene().convert(mode)
        data = encode(image, "JPEG" if mode == "CMYK" else "PNG")
        assert Attachment(data).hashes >= stored_hashes(data)

    def test_one_picture_saved_in_several_ways_shares_a_hash(self) -> None:
        see_through = scene().convert("RGBA")
        see_through.putalpha(128)
        for image in (scene(), see_through, scene().convert("L")):
            first = Attachment(encode(image, exif=turned()))
            upright = ImageOps.exif_transpose(Image.open(io.BytesIO(first.content)))
            for again in (encode(image), encode(upright, "TIFF"), encode(first.decode())):
                assert first.hashes & Attachment(again).hashes
            assert pixel_hash(first.decode()) in first.hashes
        assert not Attachment(encode(scene())).hashes & Attachment(encode(scene().rotate(180))).hashes

    def test_hashing_keeps_the_limits_of_decoding(self) -> None:
        data = encode(scene())
        for limits in (ImageLimits(pixels=100), ImageLimits(side=40)):
            with pytest.raises(UserError, match="x 32 pixels"):
                _ = Attachment(data, limits=limits).hashes
        with pytest.raises(UserError, match="MiB"):
            Attachment(data, limits=ImageLimits(bytes=10))
        with pytest.raises(UserError, match="empty"):
            Attachment(b"")

    @pytest.mark.parametrize("kind", FORMATS)
    def test_travels_as_a_data_uri(self, kind: str, tmp_path: Path) -> None:
        data = encode(scene(), kind)
        (tmp_path / "any.name").write_bytes(data)
        uri = image_url(tmp_path / "any.name")
        assert uri.startswith(f"data:image/{kind.lower()};base64,")
        assert Attachment.from_data_uri(uri).content == data
        assert image_url(data) == image_url(Attachment(data)) == image_url(uri) == uri

    def test_a_decoded_image_travels_without_loss(self) -> None:
        back = Attachment.from_data_uri(image_url(scene()))
        assert back.media_type == "image/png"
        assert (pixels(back.decode()) == pixels(scene())).all()

    def test_the_url_of_another_machine_is_the_servers_to_fetch(self) -> None:
        assert image_url("https://example.com/a.png") == "https://example.com/a.png"

    def test_what_is_no_image_has_no_url(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no image")
        for given_image in (tmp_path / "notes.txt", b"no image", "data:image/png;base64,aGk="):
            with pytest.raises(UserError, match="not an image"):
                image_url(given_image)
        with pytest.raises(UserError, match="does not exist"):
            image_url(tmp_path / "missing.png")
