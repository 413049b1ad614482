"""Fetching images that a request names by URL: only from hosts the operator listed, never from inside the network.

The address is resolved once, checked, and connected to directly, so that a name cannot answer with a public address
when it is checked and with a private one when it is used (DNS rebinding). Redirects are not followed, proxies and
credentials are not used, and compressed transfer is refused, so what arrives is bounded byte by byte.
"""

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from urllib.parse import urlsplit

from fourfold.prompts.errors import UserError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Ranges that carry an IPv4 address inside: behind a translator they reach addresses that look public here.
_TRANSLATED = [
    ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
]


class RemoteImages:
    """Fetches images over https from listed hosts.

    Args:
        hosts: Exact names, `images.example.com` or with a port `images.example.com:8443`.
        seconds: For the images of one request altogether: resolving, connecting, and reading.
        resolve: Host and port to addresses; the system's resolver by default.
        permitted: Which addresses may be connected to; public ones by default.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        max_bytes: int,
        *,
        seconds: float = 10.0,
        resolve: Callable[[str, int], list[str]] | None = None,
        permitted: Callable[[Address], bool] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts = frozenset(_host_and_port(host) for host in hosts)
        self._max_bytes, self._seconds = max_bytes, seconds
        self._resolve = resolve or _system_resolve
        self._permitted = permitted or is_public
        self._context = context or ssl.create_default_context()
        # A resolver has no timeout of its own; in a pool of its own it can hold up nothing else.
        self._resolvers = ThreadPoolExecutor(4, thread_name_prefix="resolve")

    def deadline(self) -> float:
        """`time.monotonic()` by which the images of a request that begins now have to be there."""
        return time.monotonic() + self._seconds

    def fetch(self, url: str, deadline: float) -> bytes:
        """The body of `url`; blocking, for a worker thread.

        Raises:
            UserError: The URL is not allowed, the host did not answer in time or with 200, or the image is too large.
        """
        host, port, target = self._check_url(url)
        address = self._address_of(host, port, deadline)
        connection = _PinnedConnection(host, port, address, self._context, max(0.1, deadline - time.monotonic()))
        # Socket timeouts restart with every byte; only closing from outside bounds a server that drips.
        alarm = threading.Timer(max(0.0, deadline - time.monotonic()), connection.abort)
        alarm.daemon = True
        alarm.start()
        try:
            return self._read(connection, target)
        except UserError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                raise UserError(f"{host} did not deliver the image within {self._seconds:g} seconds") from None
            reason = "its certificate is not valid" if isinstance(error, ssl.SSLError) else "the connection failed"
            raise UserError(f"the image could not be fetched from {host}: {reason}") from None
        finally:
            alarm.cancel()
            connection.close()

    def _check_url(self, url: str) -> tuple[str, int, str]:
        if len(url) > 4096 or not re.fullmatch(r"[!-~]+", url) or "\\" in url:
            raise UserError("the image URL is too long or has characters that must be percent-encoded")
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").removesuffix("."), parts.port or 443
        except ValueError:
            raise UserError("the image URL is malformed") from None
        if parts.scheme != "https":
            raise UserError("image URLs must begin with https:// (or send the image as a data URI)")
        if parts.username is not None or parts.password is not None:
            raise UserError("image URLs must not carry a user name or password")
        if (host, port) not in self.hosts:
            raise UserError("images are not fetched from that host; send a data URI, or ask the operator to allow it")
        return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _address_of(self, host: str, port: int, deadline: float) -> str:
        try:
            future = self._resolvers.submit(self._resolve, host, port)
            addresses = future.result(timeout=max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError:
            raise UserError(f"the address of {host} could not be found in time") from None
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise UserError(f"the address of {host} could not be found")
        # One private answer among public ones is an attack or a mistake: refuse all.
        if not all(self._permitted(ipaddress.ip_address(text.partition("%")[0])) for text in addresses):
            raise UserError(
                f"{host} has an address inside a private or reserved network; images are not fetched from it"
            )
        return addresses[0]

    def _read(self, connection: "_PinnedConnection", target: str) -> bytes:
        headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "fourfold", "Connection": "close"}
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        host = connection.host
        if response.status != 200:
            hint = "; redirects are not followed, send the final URL" if 300 <= response.status < 400 else ""
            raise UserError(f"{host} answered {response.status} instead of an image{hint}")
        if response.getheader("Content-Encoding", "identity").lower() != "identity":
            raise UserError(f"{host} sent the image compressed a second time, which is not accepted")
        too_large = UserError(f"the image at {host} is larger than {self._max_bytes / 2**20:g} MiB; use a smaller one")
        if (response.length or 0) > self._max_bytes:
            raise too_large
        data = bytearray()
        while block := response.read1(2**16):
            data += block
            if len(data) > self._max_bytes:
                raise too_large
        if connection.aborted:
            raise TimeoutError
        if response.length:
            raise UserError(f"{host} ended the connection before the image was complete")
        return bytes(data)


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet: not private, loopback, link-local, shared, multicast, reserved."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _TRANSLATED) or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class _PinnedConnection(http.client.HTTPSConnection):
    """Connects to one checked address while TLS and the Host header keep the name."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._address = address
        self._tls = context
        self.aborted = False
        self._socket: socket.socket | None = None  # `sock` is forgotten once the response has taken it over

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        # `abort` must reach the socket during the handshake too, so the handshake comes after the assignment.
        tls = self._tls.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self._socket = tls
        if self.aborted:
            raise TimeoutError
        tls.do_handshake()

    def abort(self) -> None:
        """End the connection from another thread; whoever is reading gets an error or the end of the stream."""
        self.aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not SSLSocket's, which is not thread-safe


def _system_resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _host_and_port(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::(\d{1,5}))?", text.strip().lower())
    if not match:
        raise UserError(f"--allow-image-host {text!r} is not a host name such as images.example.com or host:8443")
    return match[1], int(match[2] or 443)
