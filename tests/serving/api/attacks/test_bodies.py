"""Requests whose body is an attack: pictures, JSON, sizes."""

import concurrent.futures
import contextlib
import json
import socket

import httpx
import psutil
import pytest

from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine
from tests.assistant.images.test_decoding import SVG, png_claiming
from tests.assistant.images.test_isolated import HEIC, claiming
from tests.serving.api.attacks.conftest import PNG, uri
from tests.serving.api.live import Live, data_uri, image_part, live_server, text_part

BOMB = png_claiming(20_000, 20_000)
PICTURES = {
    "pixel bomb": uri(BOMB),
    "gigantic header": uri(png_claiming(2**31 - 1, 2**31 - 1)),
    "svg": uri(SVG, "image/svg+xml"),
    "svg as png": uri(SVG),
    "html": uri(b"<script>alert(1)</script>", "image/png"),
    "not base64": "data:image/png;base64,%%%%",
    "half base64": uri(PNG)[:-2],
    "cut short": uri(PNG[: len(PNG) // 2]),
    "many bytes": uri(PNG + b"\0" * 20 * 2**20),
    "no type": "data:;base64,AAAA",
    "nothing": "data:image/png;base64,",
    "name of a header": "data:image/png;name=x\r\nset-cookie: a;base64,AAAA",
    "eps": uri(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) run"),
    "pdf": uri(b"%PDF-1.7\n", "application/pdf"),
    "pdf as png": uri(b"%PDF-1.7\n"),
    "heic of another size": uri(claiming(HEIC, 16, 16), "image/heic"),
    "zip": uri(b"PK\x03\x04" + b"\0" * 100),
}


class TestBodies:
    @pytest.mark.parametrize("case", PICTURES)
    def test_pictures(self, live: Live, case: str) -> None:
        response = live.chat([image_part(PICTURES[case]), text_part("?")])
        assert response.status_code == 400 and response.json()["error"]["param"] == "messages.0.content.0"
        assert "set-cookie" not in response.headers

    def test_polyglot_is_only_a_picture(self, live: Live) -> None:
        parts = [image_part(uri(PNG + b"<script>alert(1)</script>PK\x03\x04")), text_part("?")]
        assert live.chat(parts).status_code == 200

    def test_telephones_photos(self, live: Live) -> None:
        assert live.chat([image_part(uri(HEIC, "image/heic")), text_part("?")]).status_code == 200

    def test_thousand_images(self, live: Live) -> None:
        response = live.chat([image_part(data_uri())] * 1000)
        assert response.status_code == 400 and response.json()["error"]["code"] == "too_many_images"

    def test_pixels_together(self, tiny_engine: Engine) -> None:
        with live_server(tiny_engine, limits=ServerLimits(request_pixels=10_000)) as server:
            pictures = [image_part(data_uri(size=(50, 100)))] * 3
            assert server.chat(pictures[:2]).status_code == 200
            response = server.chat(pictures)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages.0.content.2"
        assert "together" in response.json()["error"]["message"]

    def test_pixels_of_many_requests(self, tiny_engine: Engine) -> None:
        ask = {"content": [image_part(data_uri(size=(50, 100)))], "temperature": 1, "seed": 7}
        with (
            live_server(tiny_engine, limits=ServerLimits(decoded_pixels=12_000)) as server,
            concurrent.futures.ThreadPoolExecutor(6) as pool,
        ):
            codes = [answer.status_code for answer in pool.map(lambda _: server.chat(max_tokens=60, **ask), range(6))]
            assert set(codes) == {200, 429}
            assert server.chat(**ask).status_code == 200  # what they held was given back

    @pytest.mark.parametrize("chunked", [False, True])
    def test_200_megabytes(self, live: Live, chunked: bool) -> None:
        block, count = b" " * 2**20, 200
        body = (block for _ in range(count))
        headers = {"content-type": "application/json"}
        if not chunked:
            headers["content-length"] = str(len(block) * count)
        before = psutil.Process().memory_info().rss
        response = httpx.post(f"{live.url}/v1/chat/completions", content=body, headers=headers, timeout=30)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"
        assert psutil.Process().memory_info().rss - before < 150 * 2**20

    def test_endless_body(self, tiny_engine: Engine) -> None:
        with live_server(tiny_engine, limits=ServerLimits(body_bytes=2**20)) as server:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.sendall(head + b"content-type: application/json\r\n\r\n")
                sent = 0
                with contextlib.suppress(OSError):
                    while sent < 2**26:
                        connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                        sent += 65536
                assert sent < 2**26

    def test_many_uploads_at_once(self, tiny_engine: Engine) -> None:
        limits = ServerLimits(pending_bytes=3 * 2**20)
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 60}).encode()
        body += b" " * 2**20
        with live_server(tiny_engine, limits=limits) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:

            def post(_: int) -> int:
                headers = {"content-type": "application/json"}
                return httpx.post(
                    f"{server.url}/v1/chat/completions", content=body, headers=headers, timeout=60
                ).status_code

            codes = list(pool.map(post, range(8)))
            assert set(codes) == {200, 429}
            assert post(0) == 200  # what they held was given back

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 200_000,
            '{"a":' * 50_000,
            '{"seed": ' + "1" * 10_000 + "}",
            '{"temperature": 1e999}',
            '{"temperature": NaN}',
            '{"max_tokens": 1e3}',
            '{"messages": [{"role": "user", "content": "\\u0000\\uffff\\ud800"}], "max_tokens": 1}',
            '{"messages": {"role": "user"}}',
            '{"messages": [[]]}',
            '{"messages": [{"role": ["user"], "content": {}}]}',
            '{"messages": [null]}',
            '{"model": "\\r\\nset-cookie: a=b", "messages": [{"role": "user", "content": "x"}]}',
            '{"model": "../../etc/passwd", "messages": [{"role": "user", "content": "x"}]}',
            '{"__proto__": {}, "messages": [{"role": "user", "content": "x", "__class__": 1}], "max_tokens": 1}',
            "null",
            '"x"',
            "\ufeff{}",
        ],
    )
    def test_twisted_json(self, live: Live, text: str) -> None:
        headers = {"content-type": "application/json"}
        response = httpx.post(f"{live.url}/v1/chat/completions", content=text.encode(), headers=headers, timeout=20)
        assert response.status_code in (200, 400, 404)
        assert "set-cookie" not in response.headers
        assert response.status_code == 200 or response.json()["error"]["message"]

    def test_compressed_body(self, live: Live) -> None:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        response = httpx.post(f"{live.url}/v1/chat/completions", content=b"\x1f\x8b", headers=headers)
        assert response.status_code == 415 or response.status_code == 400

    def test_two_thousand_messages(self, live: Live) -> None:
        messages = [{"role": "user", "content": "x"}] * 2000
        assert live.chat(messages=messages).status_code == 400
