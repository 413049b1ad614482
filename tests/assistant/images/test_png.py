"""PNG files whose texts, profiles and checksums are wrong beside pixels that are right."""

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.images import Attachment, load_image_bytes, load_image_file
from fourfold.prompts.errors import UserError
from tests.assistant.pictures import encode, pixels, scene

CASES = Path(os.environ.get("FOURFOLD_CASES", "../shared/cases")) / "images"
HEADER_ENDS = 33


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def beside(*chunks: bytes, at: int = HEADER_ENDS) -> bytes:
    """The scene with more chunks in it."""
    data = encode(scene())
    return data[:at] + b"".join(chunks) + data[at:]


BESIDE = {
    "a text that unpacks to 30 MB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 30_000_000, 9)),
    "an international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"\0" * 3_000_000, 9)),
    "a colour profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"\0" * 30_000_000, 9)),
    "many texts": chunk(b"tEXt", b"Comment\0" + b"x" * 60_000) * 200,
    "a wrong checksum": chunk(b"tEXt", b"Comment\0hello", checksum=1),
    "a wrong checksum of its EXIF": chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0", checksum=1),
    "a broken profile": chunk(b"iCCP", b"no end of its name"),
    "a broken private chunk": chunk(b"prVt", b"", checksum=7),
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_is_beside_the_pixels_hinders_nothing(case: str) -> None:
    data = beside(BESIDE[case])
    assert (pixels(load_image_bytes(data)) == pixels(scene())).all()
    kept = Attachment(data)
    assert kept.media_type == "image/png" and kept.suffix == ".png"
    assert kept.hashes & Attachment(encode(scene())).hashes  # known as the same picture


@pytest.mark.parametrize("name", ["png_ztxt_2mb.png", "png_badcrc_ancillary.png"])
def test_files_that_were_refused(name: str) -> None:
    if not CASES.is_dir():
        pytest.skip("the cases of other people's reports are not here")
    assert (pixels(load_image_file(CASES / name)) == pixels(load_image_file(CASES / "ok.png"))).all()


def test_which_way_is_up_is_read_from_xmp_too() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    data = beside(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[0x0112] == 6
    assert load_image_bytes(data).size == (32, 48)


def test_pixels_with_a_wrong_length_are_damaged() -> None:
    data = encode(scene())
    with pytest.raises(UserError, match="damaged"):
        load_image_bytes(data[:HEADER_ENDS] + b"\0\0\0\x08" + data[HEADER_ENDS + 4 :])
    header = bytearray(data)
    header[29] ^= 1  # of the checksum of its size
    with pytest.raises(UserError, match="damaged PNG"):
        load_image_bytes(bytes(header))


def test_without_its_last_chunk_it_is_whole() -> None:
    assert (pixels(load_image_bytes(encode(scene())[:-12])) == pixels(scene())).all()
