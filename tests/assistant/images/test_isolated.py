"""AVIF, HEIC and pages of PDFs: the same pictures and the same caps as of other formats, in a process of their own."""

import base64
import contextlib
import io
import os
import re
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from fourfold.assistant.images import (
    Attachment,
    Document,
    ImageLimits,
    image_url,
    isolated,
    isolated_process,
    load_image_bytes,
    load_image_file,
    split_page,
)
from fourfold.prompts.errors import UserError
from tests.assistant.images.planted import planted_faults, with_fault
from tests.assistant.pictures import encode, pixels, scene

CASES = Path(os.environ.get("FOURFOLD_CASES", "../shared/cases")) / "images"
# scene(64, 48) by libheif's encoder, which is not among what is installed for reading.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAALcAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRt"
    "AAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMA"
    "AAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5j"
    "bHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBp"
    "eGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAL9tZGF0AAAAsygBrwngaUDiBKF+xP//vlP/9DsFZdGzP/ZO3x6A"
    "47o/NX0Tcl/6ZQTr6Wecx6wDr12ZHUHq2QTNg9EB/ZZtEgacko51N55Y5Lw8NLFhTR5FumRqGx2JWGleQnpQQWpd/ccN15hkuAay"
    "Rr+o8iHw/wQyT7yk4oYWzM01Z1au7EI0nWTdrZ0R5KZI/lu6G1mVLuhD9B0AzR+1oJsP85FnD/jY4sXQVBGyfWvC4yGKe1y88+c8"
)


def avif(image: Image.Image, **options) -> bytes:
    return encode(image, "AVIF", **{"quality": 90, "subsampling": "4:4:4", **options})


def pdf(*pages: Image.Image) -> bytes:
    return encode(pages[0], "PDF", save_all=True, append_images=list(pages[1:]))


def claiming(data: bytes, width: int, height: int) -> bytes:
    """The file with another size in its header."""
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", width, height) + data[place + 8 :]


def close(image: Image.Image, expected: Image.Image, most: float = 4) -> bool:
    return image.size == expected.size and abs(pixels(image) - pixels(expected)).mean() < most


class TestPictures:
    @pytest.mark.parametrize(("kind", "data"), [("avif", avif(scene(64, 48))), ("heic", HEIC)])
    def test_they_are_read_as_others_are(self, kind: str, data: bytes) -> None:
        image = load_image_bytes(data)
        assert image.mode == "RGB" and image.info == {"pixels": 64 * 48} and close(image, scene(64, 48))
        kept = Attachment(data)
        assert kept.media_type == f"image/{kind}" and kept.suffix == f".{kind}"
        assert Attachment.from_data_uri(kept.data_uri).content == data
        assert kept.hashes & Attachment(encode(image)).hashes
        # To a server that may be anybody's it goes as a JPEG.
        sent = Attachment.from_data_uri(image_url(data))
        assert sent.media_type == "image/jpeg" and close(sent.decode(), scene(64, 48), 6)

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_they_are_upright(self, orientation: int) -> None:
        undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = avif(scene(320, 240).transpose(undo), exif=exif)
        assert close(load_image_bytes(data), scene(320, 240))
        assert close(load_image_bytes(data, side=60), scene(160, 120))  # half of it is enough

    def test_transparency_is_white(self) -> None:
        image = load_image_bytes(avif(Image.new("RGBA", (16, 16), (0, 0, 255, 0))))
        assert image.getpixel((8, 8)) == (255, 255, 255)

    def test_a_file_that_was_refused(self) -> None:
        if not CASES.is_dir():
            pytest.skip("the cases of other people's reports are not here")
        assert close(load_image_file(CASES / "x.avif"), load_image_file(CASES / "ok.png"))

    @pytest.mark.parametrize("data", [avif(scene(64, 48)), HEIC])
    def test_what_is_wrong_is_said_in_a_line(self, data: bytes) -> None:
        for limits in (ImageLimits(pixels=3000), ImageLimits(side=60)):
            with pytest.raises(UserError, match=r"p\.x is 64 x 48 pixels"):
                load_image_bytes(data, "p.x", limits)
        for part in (0.4, 0.9):
            with pytest.raises(UserError, match=r"p\.x is damaged") as error:
                load_image_bytes(data[: int(len(data) * part)], "p.x")
            assert str(error.value).isprintable()
        with pytest.raises(UserError, match=r"^p\.x is damaged or cut short; save or send it again$"):
            load_image_bytes(data[:24] + bytes(200), "p.x")  # not with "<_io.BytesIO object at 0x...>"

    def test_a_header_may_lie_about_the_size(self) -> None:
        with pytest.raises(UserError, match="damaged"):
            load_image_bytes(claiming(HEIC, 16, 16))
        with pytest.raises(UserError, match="12000 x 12000 pixels"):
            load_image_bytes(claiming(avif(scene()), 12_000, 12_000))

    def test_more_memory_than_it_gets_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        large = claiming(avif(Image.new("RGB", (6000, 4000)), speed=10), 60, 40)
        monkeypatch.setattr(isolated, "MEMORY", 96 * 2**20)
        with pytest.raises(UserError, match=r"the image (takes too much|is damaged)"):
            load_image_bytes(large)
        monkeypatch.undo()
        assert load_image_bytes(large).size == (60, 40)


class TestOfStrangers:
    """Whatever a decoder does with a stranger's file, it is that file's refusal and nothing else."""

    @pytest.fixture(autouse=True)
    def _holes(self, tmp_path: Path) -> Iterator[None]:
        with planted_faults(tmp_path):
            yield

    @staticmethod
    def shown(data: bytes) -> Image.Image:
        return Attachment(data, "p.x", isolated=True).decode()

    @pytest.mark.parametrize(("kind", "fault"), [("PNG", "segfault"), ("JPEG", "abort"), ("AVIF", "exit")])
    def test_a_crash_costs_one_picture(self, kind: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
        data = encode(scene(), kind)
        with pytest.raises(UserError, match=r"^p\.x is damaged: its decoder crashed; save it as JPEG or PNG anew$"):
            self.shown(with_fault(data, fault))
        died = {"abort": "SIGABRT", "segfault": "SIGSEGV", "exit": "code 3"}[fault]
        assert caplog.messages == [f"a decoder died ({died}); its picture was refused"]
        assert self.shown(data).tobytes() == load_image_bytes(data).tobytes()

    def test_those_beside_it_are_not_harmed(self) -> None:
        good, bad = encode(scene(300, 200)), with_fault(encode(scene()), "abort")
        with ThreadPoolExecutor(6) as threads:
            done = list(threads.map(lambda number: self.outcome(bad if number % 3 == 0 else good), range(12)))
        assert done == ["is damaged" if number % 3 == 0 else scene(300, 200).tobytes() for number in range(12)]

    def outcome(self, data: bytes) -> object:
        try:
            return self.shown(data).tobytes()
        except UserError as error:
            return " ".join(str(error).split(":")[0].split()[1:])

    @pytest.mark.parametrize("data", [encode(scene()), avif(scene())], ids=["png", "avif"])
    def test_time_and_memory_are_bounded(self, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(isolated, "SECONDS", 0.2 if data[:4] == b"\x89PNG" else 1)  # of a fork whole ones count
        for fault in ("endless", "hog"):
            with pytest.raises(UserError, match=r"^p\.x takes too much memory"):
                self.shown(with_fault(data, fault))
        monkeypatch.undo()  # a new process may take longer than that to begin
        assert self.shown(data).size == (48, 32)

    def test_what_keeps_memory_ends(self) -> None:
        good = encode(scene())
        first = self.process_of(good)
        assert self.process_of(good) == first
        assert self.shown(with_fault(good, "leak")).tobytes() == scene().tobytes()
        assert self.process_of(good) != first

    @pytest.mark.skipif(sys.platform == "win32", reason="pipes cannot be waited for there")
    def test_one_that_reads_no_more_holds_nobody_up(self) -> None:
        before = set(psutil.Process().children())
        process = isolated_process.DecodingProcess(2**31)
        (child,) = set(psutil.Process().children()) - before
        child.suspend()
        try:
            with pytest.raises(isolated_process.Died):
                process.ask({}, bytes(2**23), 0.2)  # more than any pipe holds
        finally:
            process.kill()

    def test_one_that_was_killed_while_it_waited_costs_nothing(self) -> None:
        good = encode(scene())
        first = self.process_of(good)
        os.kill(first, 9)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert self.process_of(good) != first

    def process_of(self, data: bytes) -> int:
        """Of the one that decoded it; one after the other there is but one."""
        assert self.shown(data).tobytes() == scene().tobytes()
        with isolated_process.process() as process:
            pid = process._process.pid
        return pid


class TestSame:
    """A picture is the same wherever it is decoded, and so is what is said of a bad one."""

    @pytest.mark.parametrize(
        ("kind", "modes"),
        [
            ("PNG", ["RGB", "RGBA", "L", "1", "P", "I;16"]),
            ("JPEG", ["RGB", "L", "CMYK"]),
            ("WEBP", ["RGB", "RGBA"]),
            ("GIF", ["P", "L"]),
            ("BMP", ["RGB", "1"]),
            ("TIFF", ["RGB", "RGBA", "I;16", "CMYK"]),
        ],
    )
    def test_pictures(self, kind: str, modes: list[str]) -> None:
        for mode in modes:
            data = encode(scene(120, 90).convert("L" if mode == "I;16" else "RGB").convert(mode), kind)
            self.compare(data)

    def compare(self, data: bytes) -> None:
        here, apart = Attachment(data), Attachment(data, isolated=True)
        for side in (None, 12):
            image, other = here.decode(side), apart.decode(side)
            assert (other.mode, other.size, other.info, other.tobytes()) == (
                image.mode,
                image.size,
                image.info,
                image.tobytes(),
            )
        assert apart.hashes == here.hashes

    @pytest.mark.parametrize(
        "data", [b"", b"x", b"GIF89a", encode(scene())[:90], encode(scene(), "JPEG")[:300], b"<svg/>", bytes(2000)]
    )
    def test_complaints(self, data: bytes) -> None:
        for limits in (ImageLimits(), ImageLimits(bytes=100), ImageLimits(pixels=100)):
            said = set()
            for isolated_too in (False, True):
                with pytest.raises(UserError) as error:
                    load_image_bytes(data, "a picture", limits, isolated=isolated_too)
                said.add(re.sub("0x[0-9a-f]+", "", str(error.value)))
            assert len(said) == 1

    def test_a_server_may_have_more_than_a_thousand_files_open(self) -> None:
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 2000:
            pytest.skip(f"the system allows {hard} open files")
        isolated_process.close()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
            with contextlib.ExitStack() as opened:
                for _ in range(1100):
                    opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
                self.compare(encode(scene()))
        finally:
            isolated_process.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_it_has_no_secrets_of_the_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOURFOLD_ADMIN_KEY", "a-secret-0123456789")
        isolated_process.close()
        isolated.warm()
        with isolated_process.process() as process:
            environment = Path(f"/proc/{process._process.pid}/environ")
            if not environment.exists():
                pytest.skip("the system does not show the environment of a process")
            assert b"secret" not in environment.read_bytes()


class TestDocuments:
    colours = ("red", "lime", "blue")

    @pytest.fixture
    def report(self, tmp_path: Path) -> Path:
        path = tmp_path / "report.pdf"
        path.write_bytes(pdf(*(Image.new("RGB", (60, 40 + 20 * n), c) for n, c in enumerate(self.colours))))
        return path

    def test_a_page_is_a_picture(self, report: Path) -> None:
        for number, colour in enumerate(self.colours, 1):
            image = load_image_file(f"{report}#{number}")
            assert close(image, Image.new("RGB", image.size, colour))
        assert Attachment.from_path(f"{report}#2").media_type == "image/png"
        with pytest.raises(UserError, match=r"report\.pdf has 3 pages; name one of them, such as .*report\.pdf#1"):
            load_image_file(report)
        for page in (0, 4, 99_999):
            with pytest.raises(UserError, match=f"has 3 pages; there is no page {page}"):
                load_image_file(f"{report}#{page}")

    def test_a_document_of_one_page_needs_no_number(self, tmp_path: Path) -> None:
        (tmp_path / "one.PDF").write_bytes(pdf(scene(60, 40)))
        assert close(load_image_file(tmp_path / "one.PDF").resize((60, 40)), scene(60, 40), 12)

    def test_a_file_may_be_called_so(self, tmp_path: Path) -> None:
        (tmp_path / "scan.pdf#1").write_bytes(encode(scene()))
        assert load_image_file(tmp_path / "scan.pdf#1").size == (48, 32)
        assert split_page("a/scan.pdf#12") == ("a/scan.pdf", 12)
        assert split_page("scan.png#1") == ("scan.png#1", None)

    def test_pages_to_choose_from(self, report: Path) -> None:
        document = Document.read(report.read_bytes(), "report.pdf")
        assert document.pages == 3
        small = document.thumbnails([1, 3], longest=30)
        assert [max(image.size) for image in small] == [30, 30]
        assert all(
            close(image, Image.new("RGB", image.size, colour))
            for image, colour in zip(small, self.colours[::2], strict=True)
        )
        assert document.page(2).name == "report.pdf, page 2"

    def test_a_server_is_sent_pictures(self, report: Path) -> None:
        with pytest.raises(UserError, match="is a PDF"):
            load_image_bytes(report.read_bytes())
        uri = "data:application/pdf;base64," + base64.b64encode(report.read_bytes()).decode()
        with pytest.raises(UserError, match="is a PDF; send the page"):
            Attachment.from_data_uri(uri)

    def test_a_huge_page_is_drawn_small(self) -> None:
        page = pdf(scene(60, 40)).replace(b"/MediaBox [ 0 0 60.0 40.0 ]", b"/MediaBox [ 0 0 9e9 4e9 ]")
        assert b"9e9" in page
        assert max(Attachment.from_pdf(page).decode().size) <= 2000

    def test_thousands_of_pages_are_counted(self) -> None:
        one = pdf(scene(16, 16))
        kids = one[one.index(b"/Kids [") :].split(b"[")[1].split(b"]")[0].strip()
        many = one.replace(kids + b" ]", (kids + b" ") * 20_000 + b"]").replace(b"/Count 1", b"/Count 20000")
        began = time.monotonic()
        assert Document.read(many).pages in (1, 20_000)  # as pdfium sees it
        assert time.monotonic() - began < 60

    def test_a_page_that_draws_for_ever_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(isolated, "SECONDS", 1.0)
        began = time.monotonic()
        with pytest.raises(UserError, match=r"takes too (much|long)"):
            Attachment.from_pdf(endless())
        assert time.monotonic() - began < 30

    @pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <</Root 1 0 R>>\n%%EOF"])
    def test_damaged_ones_are_refused(self, data: bytes) -> None:
        with pytest.raises(UserError, match=r"broken\.pdf is damaged[^.]*[^.];"):
            Document.read(data, "broken.pdf")


def endless() -> bytes:
    """A page whose forms draw each other, ten times ten times ten ... a square."""
    depth = 12
    objects = [
        b"<</Type /Catalog /Pages 2 0 R>>",
        b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
        b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 500 500] /Resources <</XObject <</F 5 0 R>>>> /Contents 4 0 R>>",
        b"<</Length 5>> stream\n/F Do\nendstream",
    ]
    for number in range(depth):
        inner = f"/Resources <</XObject <</F {number + 6} 0 R>>>>" if number + 1 < depth else ""
        body = "/F Do " * 10 if inner else "0 0 500 500 re f "
        head = f"<</Type /XObject /Subtype /Form /BBox [0 0 500 500] {inner} /Length {len(body)}>>"
        objects.append(f"{head} stream\n{body}\nendstream".encode())
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, 2)
    for number, body in enumerate(objects, 1):
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    out.write(b"trailer <</Root 1 0 R /Size %d>>\n%%%%EOF" % (len(objects) + 1))
    return out.getvalue()
