"""JPEG files that end early, and those that are larger than what is decoded whole."""

import io
import os
import random
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.images import Attachment, ImageLimits, load_image_bytes, load_image_file
from fourfold.prompts.errors import UserError
from tests.assistant.pictures import encode, pixels, scene

CASES = Path(os.environ.get("FOURFOLD_CASES", "../shared/cases")) / "images"
KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "full colour": {"subsampling": 0},
}


def noise(width: int = 72, height: int = 56) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(0).randbytes(width * height * 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [1, 2])
def test_only_the_end_marker_is_missing(kind: str, missing: int) -> None:
    for picture in (noise(), scene(), noise(16, 8).convert("L")):
        data = encode(picture, "JPEG", **KINDS[kind])
        assert data.endswith(b"\xff\xd9")
        cut = data[:-missing]
        assert (pixels(load_image_bytes(cut)) == pixels(load_image_bytes(data))).all()
        assert Attachment(cut).hashes - Attachment(data).hashes == {f"bytes:{Attachment(cut).sha256}"}
        assert load_image_bytes(cut, side=4).size == load_image_bytes(data, side=4).size


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_missing(kind: str) -> None:
    data = encode(noise(), "JPEG", **KINDS[kind])
    for missing in (6, 9, 40, len(data) // 8, len(data) // 2):
        with pytest.raises(UserError, match="cut short"):
            load_image_bytes(data[:-missing])


def test_a_progressive_one_that_ends_between_two_scans_is_cut_short() -> None:
    data = encode(noise(), "JPEG", progressive=True)
    for count in (1, 2):
        end = data.rindex(b"\xff\xda")
        for _ in range(count - 1):
            end = data.rindex(b"\xff\xda", 0, end)
        tables = data.rfind(b"\xff\xc4", 0, end)  # of this scan
        with pytest.raises(UserError, match="cut short"):
            load_image_bytes(data[:tables])


def test_a_file_that_was_refused() -> None:
    if not CASES.is_dir():
        pytest.skip("the cases of other people's reports are not here")
    assert (pixels(load_image_file(CASES / "trunc_eoi.jpg")) == pixels(load_image_file(CASES / "ok.jpg"))).all()
    assert load_image_file(CASES / "pixel50mp.jpg").size == (8160, 6144)


class TestLarger:
    """A cap of 10,000 pixels stands for that of 52 million."""

    limits = ImageLimits(pixels=10_000, side=200)

    def test_it_is_decoded_at_half_its_size(self) -> None:
        photo = scene().resize((199, 151), Image.Resampling.BICUBIC)
        for orientation, size in ((1, (100, 76)), (6, (76, 100))):
            exif = Image.Exif()
            exif[0x0112] = orientation
            found = load_image_bytes(encode(photo, "JPEG", quality=95, exif=exif), limits=self.limits)
            assert found.size == size and found.info == {"pixels": 7600}
        small = pixels(photo.resize((100, 76), Image.Resampling.BOX))
        plain = load_image_bytes(encode(photo, "JPEG", quality=95), limits=self.limits)
        assert abs(pixels(plain) - small).mean() < 4

    def test_for_a_model_at_less(self) -> None:
        data = encode(noise(200, 160), "JPEG")
        found = load_image_bytes(data, limits=self.limits, side=20)
        assert found.size == (50, 40) and found.info == {"pixels": 8000}

    def test_a_long_side_is_halved_too(self) -> None:
        assert load_image_bytes(encode(noise(400, 8), "JPEG"), limits=self.limits).size == (200, 4)
        with pytest.raises(UserError, match="a side"):
            load_image_bytes(encode(noise(402, 8), "JPEG"), limits=self.limits)

    def test_more_than_four_times_as_many_pixels_are_refused(self) -> None:
        with pytest.raises(UserError, match="210 x 200 pixels"):
            load_image_bytes(encode(noise(210, 200), "JPEG"), limits=self.limits)

    @pytest.mark.parametrize("options", [{"progressive": True}, {"streamtype": 0}])
    def test_what_a_decoder_holds_whole_is_refused(self, options: dict) -> None:
        data = encode(noise(160, 120), "JPEG", **options)
        if "progressive" not in options:
            data = in_scans(data)
        with pytest.raises(UserError, match="160 x 120 pixels"):
            load_image_bytes(data, limits=self.limits)
        assert load_image_bytes(data, limits=ImageLimits(pixels=160 * 120)).size == (160, 120)

    def test_no_other_format_is(self) -> None:
        with pytest.raises(UserError, match="160 x 120 pixels"):
            load_image_bytes(encode(noise(160, 120), "PNG"), limits=self.limits)


def in_scans(data: bytes) -> bytes:
    """A grey sequential JPEG as one of three colours whose scans come one after the other; its colours are grey."""
    grey = encode(Image.open(io.BytesIO(data)).convert("L"), "JPEG")
    frame = grey.index(b"\xff\xc0")
    size = int.from_bytes(grey[frame + 2 : frame + 4], "big")
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    colours = grey[frame : frame + 2] + b"\0\x11" + grey[frame + 4 : frame + 9] + b"\3" + components
    start = grey.index(b"\xff\xda")
    coded = grey[start + 10 : -2]
    scans = b"".join(b"\xff\xda\0\x08\1" + bytes([number, 0, 0, 63, 0]) + coded for number in (1, 2, 3))
    return grey[:frame] + colours + grey[frame + 2 + size : start] + scans + b"\xff\xd9"
