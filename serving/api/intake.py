"""The messages of a request as the engine takes them: every image fetched, checked and decoded."""

from dataclasses import replace
from typing import Any

from PIL import Image

from fourfold.assistant.images import decode_data_uri, load_image_bytes
from fourfold.prompts.errors import UserError
from fourfold.serving.api.chat_schema import AssistantMessage, ChatRequest, ImagePart, SystemMessage, TextPart
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.remote_images import RemoteImages


def read_messages(
    body: ChatRequest, limits: ServerLimits, remote: RemoteImages | None, side: int
) -> list[dict[str, Any]]:
    """Blocking, for a worker thread.

    Args:
        body: A request whose number of images was checked.
        limits: Caps.
        remote: Fetches images by URL; None where data URIs only are taken.
        side: Pixels a side of the model's images, see `load_image_bytes`.

    Returns:
        Messages of `serving.requests.Request`.

    Raises:
        ApiError: An image is refused; `param` says which.
    """
    reader = _Reader(limits, remote, side)
    messages = []
    for index, message in enumerate(body.messages):
        role = "system" if isinstance(message, SystemMessage) else message.role
        content: str | list[dict[str, Any]]
        if isinstance(message.content, list):
            content = []
            for place, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    image = reader.read(part.image_url.url, f"messages.{index}.content.{place}")
                    content.append({"type": "image", "image": image})
                else:
                    text = part.text if isinstance(part, TextPart) else part.refusal
                    content.append({"type": "text", "text": text})
        else:
            content = message.content or (message.refusal if isinstance(message, AssistantMessage) else None) or ""
        messages.append({"role": role, "content": content})
    return messages


class _Reader:
    """Counts the pixels of a request as its images are read."""

    def __init__(self, limits: ServerLimits, remote: RemoteImages | None, side: int) -> None:
        self._limits, self._remote, self._side = limits, remote, side
        self._images = 0
        self._pixels = 0
        self._deadline: float | None = None

    def read(self, url: str, param: str) -> Image.Image:
        self._images += 1
        name = f"image {self._images}"
        left = self._limits.request_pixels - self._pixels
        caps = replace(self._limits.image, pixels=min(self._limits.image.pixels, left))
        try:
            image = load_image_bytes(self._bytes(url, name), name, caps, self._side)
        except UserError as error:
            message = str(error)
            if "pixels" in message and caps != self._limits.image:
                message += f" (all images of a request together may have {self._limits.request_pixels:,} pixels)"
            raise ApiError(400, message, param=param, code="invalid_image") from None
        self._pixels += image.info["pixels"]
        return image

    def _bytes(self, url: str, name: str) -> bytes:
        if url[:5].lower() == "data:":
            return decode_data_uri(url, name, self._limits.image)
        if self._remote is None:
            raise UserError(
                f"{name} must be a data URI of the form data:image/png;base64,...; this server fetches no URLs"
            )
        self._deadline = self._deadline or self._remote.deadline()
        return self._remote.fetch(url, self._deadline)
