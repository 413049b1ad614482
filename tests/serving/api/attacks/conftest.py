"""What strangers try: none of it may bring a 5xx, hang, take memory without bound, or reach another host.

All traffic stays on loopback: the resolver is a fake, and connections anywhere else fail the test.
"""

import base64
import ipaddress
import socket

import pytest

from fourfold.serving.api.remote_images import RemoteImages
from tests.assistant.pictures import encode, scene

PNG = encode(scene())


def fetch(remote: RemoteImages, url: str | None = None) -> bytes:
    """What the server does to get an image by URL; without one, the URL that `remote_server` gave."""
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
    """Bytes that claim to be a picture."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
