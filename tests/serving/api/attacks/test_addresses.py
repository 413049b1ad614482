"""Image URLs that should not be followed: other hosts, private addresses, other schemes, local paths."""

import ipaddress
from collections.abc import Iterator

import pytest

from fourfold.serving.api.remote_images import RemoteImages, is_public
from fourfold.serving.engine.engine import Engine
from tests.serving.api.attacks.conftest import fetch
from tests.serving.api.live import Live, image_part, live_server, text_part

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
