"""What strangers try: none of it may bring a 5xx, hang, take memory without bound, or reach another host.

All traffic stays on loopback: the resolver is a fake, and connections anywhere else fail the test.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import ipaddress
import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving.engine import Engine
from serving.keys import collect_keys
from serving.limits import ServerLimits
from serving.remote_images import RemoteImages, is_public
from tests.serving.live import Live, data_uri, image_part, live_server, text_part
from tests.serving.test_images import SVG, encode, png_claiming, scene

PNG = encode(scene())


def fetch(remote: RemoteImages, url: str | None = None) -> bytes:
    return remote.fetch(url or remote.url, remote.deadline())


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere else is an error, not a timeout."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        assert ipaddress.ip_address(host).is_loopback, f"reached out to {host}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


SSRF = [
    "http://127.0.0.1/x.png",
    "https://127.0.0.1/x.png",
    "https://localhost/x.png",
    "https://[::1]/x.png",
    "https://2130706433/x.png",
    "https://0x7f000001/x.png",
    "https://0177.0.0.1/x.png",
    "https://127.1/x.png",
    "https://0/x.png",
    "https://[::ffff:127.0.0.1]/x.png",
    "https://[::ffff:7f00:1]/x.png",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/latest/meta-data/",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://10.0.0.1/",
    "https://192.168.0.1/",
    "https://images.test@127.0.0.1/x.png",
    "https://images.test:443@127.0.0.1/x.png",
    "https://127.0.0.1#@images.test/",
    "https://127.0.0.1\\@images.test/",
    "https://images.test.evil.example/x.png",
    "https://evilimages.test/x.png",
    "https://images.test:22/x.png",
    "https://images.test:99999/x.png",
    "https://images。test/x.png",
    "https://ｉmages.test/x.png",
    "https://[::1",
    "http://images.test/x.png",
    "ftp://images.test/x.png",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://localhost/etc/passwd",
    "/etc/passwd",
    "../../etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "jar:https://images.test!/x.png",
    "//images.test/x.png",
    "https:images.test/x.png",
    "https:///x.png",
    "https://",
    "javascript:alert(1)",
    "https://images.test/x.png\r\nHost: evil",
    "https://images.test/\x00",
    "https://images.test/ x",
    "https://images.test/" + "a" * 10_000,
    "",
    " ",
    "data:",
    "data:,",
    "data:image/png",
]


PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378::1",
    "fe80::1%eth0",
]


@pytest.fixture(scope="module")
def listing(tiny_engine: Engine) -> Iterator[Live]:
    def resolve(host: str, port: int) -> list[str]:
        raise AssertionError(f"looked up {host}")

    remote = RemoteImages(["images.test"], 10**6, resolve=resolve)
    with live_server(tiny_engine, remote=remote) as server:
        yield server


class TestAddresses:
    @pytest.mark.parametrize("url", SSRF)
    def test_what_is_not_listed_is_not_even_looked_up(self, listing: Live, live: Live, url: str) -> None:
        for server in (listing, live):
            response = server.chat([image_part(url), text_part("?")])
            assert response.status_code == 400, response.text
            message = response.json()["error"]["message"]
            assert message.isprintable() and "root:" not in message and len(message) < 400

    @pytest.mark.parametrize(
        "address",
        PRIVATE,
    )
    def test_names_of_private_addresses(self, address: str) -> None:
        assert not is_public(ipaddress.ip_address(address.partition("%")[0]))
        remote = RemoteImages(["images.test"], 10**6, resolve=lambda host, port: ["93.184.215.14", address])
        with pytest.raises(ValueError, match="private or reserved"):
            fetch(remote, "https://images.test/x.png")

    def test_public_addresses(self) -> None:
        for address in ("93.184.215.14", "1.1.1.1", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:1.1.1.1"):
            assert is_public(ipaddress.ip_address(address))


class Script(http.server.BaseHTTPRequestHandler):
    """Answers with what the test's `play` does."""

    protocol_version = "HTTP/1.1"
    play: Callable[["Script"], None]

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):  # the client may have had enough
            type(self).play(self)

    def reply(self, data: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=images.test", "-addext", "subjectAltName=DNS:images.test"]
    command += ["-keyout", str(file), "-out", str(file) + ".crt"]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + Path(str(file) + ".crt").read_text())
    return file


@pytest.fixture
def remote_server(certificate: Path) -> Iterator[Callable[..., RemoteImages]]:
    """Starts an https server for `images.test` on loopback; gives the fetcher that may reach it."""
    servers = []

    def start(play: Callable[[Script], None], **options) -> RemoteImages:
        handler = type("Handler", (Script,), {"play": staticmethod(play), "seen": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        trust = ssl.create_default_context(cafile=str(certificate) + ".crt")
        options = {
            "resolve": lambda host, port: ["127.0.0.1"],
            "permitted": lambda address: address.is_loopback,
            "context": trust,
            "seconds": 2.0,
            **options,
        }
        remote = RemoteImages([f"images.test:{server.server_port}"], 10**6, **options)
        remote.url = f"https://images.test:{server.server_port}/a/b.png?size=1"
        return remote

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class TestRemoteImages:
    def test_fetches_from_the_checked_address_under_the_right_name(self, remote_server) -> None:
        seen = []

        def play(script: Script) -> None:
            seen.append((script.path, script.headers["Host"], script.headers.get("Authorization")))
            script.reply(PNG)

        lookups = []

        def resolve(host: str, port: int) -> list[str]:
            lookups.append(host)
            # A rebinding name: public-looking when checked, something else when looked up again.
            return ["127.0.0.1"] if len(lookups) == 1 else ["10.0.0.1"]

        remote = remote_server(play, resolve=resolve)
        assert fetch(remote) == PNG
        assert lookups == ["images.test"]
        port = remote.url.split(":")[2].split("/")[0]
        assert seen == [("/a/b.png?size=1", f"images.test:{port}", None)]

    def test_through_the_endpoint(self, remote_server, tiny_engine: Engine) -> None:
        remote = remote_server(lambda script: script.reply(PNG))
        with live_server(tiny_engine, remote=remote) as server:
            by_url = server.chat([image_part(remote.url), text_part("?")], logprobs=True)
            inline = server.chat([image_part(uri(PNG)), text_part("?")], logprobs=True)
        assert by_url.status_code == 200
        score = [r.json()["choices"][0]["logprobs"]["content"][0]["logprob"] for r in (by_url, inline)]
        assert score[0] == pytest.approx(score[1], abs=1e-5)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirects_are_not_followed(self, remote_server, status: int) -> None:
        asked = []

        def play(script: Script) -> None:
            asked.append(script.path)
            script.reply(b"", status, Location="https://127.0.0.1/secret")

        remote = remote_server(play)
        with pytest.raises(ValueError, match="redirects are not followed"):
            fetch(remote)
        assert len(asked) == 1

    @pytest.mark.parametrize("status", [204, 401, 404, 500])
    def test_other_answers(self, remote_server, status: int) -> None:
        remote = remote_server(lambda script: script.reply(b"", status))
        with pytest.raises(ValueError, match=str(status)):
            fetch(remote)

    def test_announced_size(self, remote_server) -> None:
        remote = remote_server(lambda script: script.reply(b"x", length=10**12))
        with pytest.raises(ValueError, match="larger than"):
            fetch(remote)

    def test_endless_body(self, remote_server) -> None:
        sent = 0

        def play(script: Script) -> None:
            nonlocal sent
            script.send_response(200)
            script.send_header("Connection", "close")
            script.end_headers()
            while True:
                sent += script.wfile.write(b"x" * 65536)

        remote = remote_server(play)
        with pytest.raises(ValueError, match="larger than"):
            fetch(remote)
        assert sent < 2**24

    def test_endless_chunks(self, remote_server) -> None:
        def play(script: Script) -> None:
            script.send_response(200)
            script.send_header("Transfer-Encoding", "chunked")
            script.end_headers()
            while True:
                script.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

        remote = remote_server(play)
        with pytest.raises(ValueError, match="larger than"):
            fetch(remote)

    def test_gzip(self, remote_server) -> None:
        remote = remote_server(lambda script: script.reply(b"x", Content_Encoding="gzip"))
        with pytest.raises(ValueError, match="compressed"):
            fetch(remote)

    @pytest.mark.parametrize("where", ["status", "headers", "body", "silence"])
    def test_drip(self, remote_server, where: str) -> None:
        def play(script: Script) -> None:
            if where == "silence":
                time.sleep(4)
                return
            start = {"status": b"", "headers": b"HTTP/1.1 200 OK\r\n", "body": b"HTTP/1.1 200 OK\r\n\r\n"}[where]
            script.wfile.write(start)
            for _ in range(100):
                script.wfile.write(b"H")
                script.wfile.flush()
                time.sleep(0.05)

        remote = remote_server(play, seconds=0.6)
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"within 0\.6 seconds"):
            fetch(remote)
        assert time.monotonic() - began < 2

    def test_drip_in_the_handshake(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            remote = RemoteImages(
                [f"images.test:{port}"],
                10**6,
                seconds=0.5,
                resolve=lambda host, port: ["127.0.0.1"],
                permitted=lambda address: True,
            )
            began = time.monotonic()
            with pytest.raises(ValueError, match=r"within 0\.5 seconds"):
                fetch(remote, f"https://images.test:{port}/")
            assert time.monotonic() - began < 2

    def test_slow_resolver(self) -> None:
        def resolve(host: str, port: int) -> list[str]:
            time.sleep(1.5)
            return ["127.0.0.1"]

        remote = RemoteImages(["images.test"], 10**6, seconds=0.3, resolve=resolve)
        began = time.monotonic()
        with pytest.raises(ValueError, match="in time"):
            fetch(remote, "https://images.test/")
        assert time.monotonic() - began < 1

    def test_certificate_of_another(self, remote_server) -> None:
        remote = remote_server(lambda script: script.reply(PNG), context=ssl.create_default_context())
        with pytest.raises(ValueError, match="certificate"):
            fetch(remote)

    def test_cut_short(self, remote_server) -> None:
        def play(script: Script) -> None:
            script.reply(b"x" * 10, length=1000, Connection="close")
            script.close_connection = True

        remote = remote_server(play)
        with pytest.raises(ValueError, match="before the image was complete"):
            fetch(remote)

    def test_nobody_there(self) -> None:
        remote = RemoteImages(
            ["images.test:1"], 10, resolve=lambda host, port: ["127.0.0.1"], permitted=lambda address: True
        )
        with pytest.raises(ValueError, match="connection failed"):
            fetch(remote, "https://images.test:1/")

    @pytest.mark.parametrize(
        "host", ["", "*.test", "https://images.test", "a b", "user@host", "[::1]", "x" * 300 + ":x"]
    )
    def test_hosts_that_are_none(self, host: str) -> None:
        with pytest.raises(ValueError, match="is not a host name"):
            RemoteImages([host], 10)


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
    "many bytes": uri(PNG + b"\0" * 25 * 2**20),
    "no type": "data:;base64,AAAA",
    "nothing": "data:image/png;base64,",
    "name of a header": "data:image/png;name=x\r\nset-cookie: a;base64,AAAA",
    "eps": uri(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) run"),
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
            codes = [answer.status_code for answer in pool.map(lambda _: server.chat(max_tokens=300, **ask), range(6))]
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
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 300}).encode()
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
                with contextlib.suppress(TimeoutError):
                    block = connection.recv(65536)
                    received += block
                    if not block:
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
