"""Hosts from which images may be fetched, and which then misbehave."""

import contextlib
import http.server
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fourfold.serving.api.remote_images import RemoteImages
from fourfold.serving.engine.engine import Engine
from tests.serving.api.attacks.conftest import PNG, fetch, uri
from tests.serving.api.live import image_part, live_server, text_part


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
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        trust = ssl.create_default_context(cafile=str(certificate) + ".crt")
        options = {
            "resolve": lambda host, port: ["127.0.0.1"],
            "permitted": lambda address: address.is_loopback,
            "context": trust,
            "seconds": 20.0,
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

        remote = remote_server(play, seconds=0.3)
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"within 0\.3 seconds"):
            fetch(remote)
        assert time.monotonic() - began < 4

    def test_drip_in_the_handshake(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            remote = RemoteImages(
                [f"images.test:{port}"],
                10**6,
                seconds=0.3,
                resolve=lambda host, port: ["127.0.0.1"],
                permitted=lambda address: True,
            )
            began = time.monotonic()
            with pytest.raises(ValueError, match=r"within 0\.3 seconds"):
                fetch(remote, f"https://images.test:{port}/")
            assert time.monotonic() - began < 4

    def test_slow_resolver(self) -> None:
        enough = threading.Event()

        def resolve(host: str, port: int) -> list[str]:
            enough.wait(8)
            return ["127.0.0.1"]

        remote = RemoteImages(["images.test"], 10**6, seconds=0.3, resolve=resolve)
        began = time.monotonic()
        with pytest.raises(ValueError, match="in time"):
            fetch(remote, "https://images.test/")
        assert time.monotonic() - began < 4
        enough.set()

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
