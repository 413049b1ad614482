"""What one client may cost a server: every cap in one place."""

from dataclasses import dataclass, field

from fourfold.assistant.images import ImageLimits


@dataclass(frozen=True)
class ServerLimits:
    """Caps of the HTTP server.

    Attributes:
        body_bytes: Largest request body.
        body_objects: Objects and lists in a request body; in memory each takes twenty times what it takes there.
        body_values: Values that commas separate in a request body.
        pending_bytes: Bodies of all requests being read or served, together.
        body_seconds: For a body to arrive completely.
        header_seconds: For the head of a request to arrive completely.
        request_seconds: For an answer; then it ends as if `max_tokens` were reached.
        connections: Open at the same time.
        images: Images in one request.
        request_pixels: Pixels of all images of one request together.
        decoded_pixels: Pixels of the images of all requests being served together; three bytes each.
        image: Caps of a single image.
        max_tokens: Longest answer that can be asked for; longer wishes are clipped.
        default_max_tokens: Of an answer where the client says nothing.
        choices: Largest `n`.
        preparing: Requests whose images are being decoded or wait for it.
    """

    body_bytes: int = 64 * 2**20
    body_objects: int = 250_000
    body_values: int = 2_000_000
    pending_bytes: int = 512 * 2**20
    body_seconds: float = 60.0
    header_seconds: float = 10.0
    request_seconds: float = 900.0
    connections: int = 500
    images: int = 16
    request_pixels: int = 104_000_000
    decoded_pixels: int = 400_000_000
    image: ImageLimits = field(default_factory=lambda: ImageLimits(bytes=20 * 2**20))
    max_tokens: int = 4096
    default_max_tokens: int = 256
    choices: int = 8
    preparing: int = 64
