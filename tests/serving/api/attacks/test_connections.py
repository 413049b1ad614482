"""Connections that are an attack: slow, broken, twisted, under a false name; and guessing keys."""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator

import httpx
import pytest

from fourfold.serving.api.keys import collect_keys
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import Live, live_server


def raw(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes, return everything that comes back until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        while block := connection.recv(65536):
            received += block
    return received


@pytest.fixture(scope="module")
def quick(tiny_engine: Engine) -> Iterator[Live]:
    with live_server(tiny_engine, limits=ServerLimits(header_seconds=0.5, body_seconds=0.5)) as server:
        yield server


class TestConnections:
    def test_silent_connection(self, quick: Live) -> None:
        began = time.monotonic()
        assert raw(quick.port, b"") == b""
        assert time.monotonic() - began < 3

    @pytest.mark.parametrize("after_a_request", [False, True])
    def test_slow_head(self, quick: Live, after_a_request: bool) -> None:
        with socket.create_connection(("127.0.0.1", quick.port), timeout=5) as connection:
            if after_a_request:
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert b" 200 " in connection.recv(4096)
            began = time.monotonic()
            with contextlib.suppress(OSError):
                for byte in b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-a: " + b"b" * 100:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)
            assert time.monotonic() - began < 3

    def test_slow_body(self, quick: Live) -> None:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", quick.port), timeout=5) as connection:
            connection.sendall(head + b"content-length: 1000\r\n\r\n{")
            began, received = time.monotonic(), b""
            connection.settimeout(0.05)
            while time.monotonic() - began < 5:
                try:
                    block = connection.recv(65536)
                    received += block
                    if not block:
                        break
                    continue
                except TimeoutError:
                    pass
                except ConnectionError:  # a byte that crossed the server's farewell
                    break
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")
        assert b" 408 " in received and time.monotonic() - began < 3

    def test_body_of_a_get_is_not_waited_for(self, quick: Live) -> None:
        began = time.monotonic()
        answer = raw(quick.port, b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nx")
        assert b" 200 " in answer and time.monotonic() - began < 3

    @pytest.mark.parametrize(
        "head",
        [
            b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * 50_000 + b"\r\n",
            b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + b"\0" * 100,
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            b"GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n",
        ],
    )
    def test_heads(self, quick: Live, head: bytes) -> None:
        answer = raw(quick.port, head, seconds=10)
        assert not answer or int(answer.split()[1]) < 500
        assert httpx.get(f"{quick.url}/health").status_code == 200

    def test_what_is_behind_a_body_of_two_lengths_is_no_request(self, quick: Live) -> None:
        hidden = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        lengths = b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n" % (5 + len(hidden))
        answer = raw(quick.port, head + lengths + b"0\r\n\r\n" + hidden)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"two lengths" in answer
        assert answer.count(b"HTTP/1.1 ") == 1 and b"connection: close" in answer.lower()

    def test_names_of_other_hosts(self, live: Live) -> None:
        """A web page can make its own name point here; without keys, its visitors' browsers must get nothing."""
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::2]", "10.0.0.1"):
            response = httpx.get(f"{live.url}/v1/models", headers={"host": host})
            assert response.status_code == 403
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"):
            assert httpx.get(f"{live.url}/v1/models", headers={"host": host}).status_code == 200

    def test_pages_of_other_origins(self, live: Live) -> None:
        headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        response = httpx.options(f"{live.url}/v1/chat/completions", headers=headers)
        assert "access-control-allow-origin" not in response.headers
        response = httpx.post(f"{live.url}/v1/chat/completions", content=b'{"messages": []}', headers=headers)
        assert response.status_code == 415  # a page can send this without asking, but only as text/plain

    def test_hundred_slow_clients_do_not_stop_the_others(self, quick: Live) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", quick.port)))
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
            assert quick.chat().status_code == 200

    def test_resets(self, live: Live) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 500, "stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        for part in (10, len(head), len(head) + 30, None):
            data = (head + f"content-length: {len(body)}\r\n\r\n".encode() + body)[:part]
            connection = socket.create_connection(("127.0.0.1", live.port))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(data)
            time.sleep(0.02)
            connection.close()
        assert live.chat().status_code == 200


def test_guessing_keys_takes_the_same_time(tiny_engine: Engine) -> None:
    """Every key is compared whole and all of them always are, so neither a prefix nor a position shows."""
    ring = collect_keys([f"key-number-{number:06}" for number in range(50)], None, {})
    compared = []

    class Watched(bytes):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared with ==, which stops at the first difference")

        __hash__ = bytes.__hash__

    for key in ring.keys:
        object.__setattr__(key, "digest", Watched(key.digest))
        compared.append(key)
    assert ring.find("key-number-000000") is compared[0]
    assert ring.find("key-number-000049") is compared[49]
    assert ring.find("key-number-00004") is None
