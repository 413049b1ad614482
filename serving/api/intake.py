"""A request's messages as the engine takes them: every image fetched, checked and decoded, and what is asked noted."""

from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from fourfold.assistant.images import Attachment, ImageLimits
from fourfold.prompts.errors import UserError
from fourfold.serving.api.chat_schema import (
    AssistantMessage,
    ChatMessage,
    ChatRequest,
    ImagePart,
    SystemMessage,
    TextPart,
    ToolMessage,
)
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.remote_images import RemoteImages


@dataclass(frozen=True)
class Conversation:
    """A request that was read.

    Attributes:
        messages: of `serving.engine.requests.Request`.
        pixels: of its decoded images.
        subject: the one image that the last message is about, as it came; None where that is none or several.
        subject_pixels: those of it that count, see `load_image_bytes`.
        question: text of the last message.
    """

    messages: list[dict[str, Any]]
    pixels: int
    subject: Attachment | None
    subject_pixels: int
    question: str


def read_messages(body: ChatRequest, limits: ServerLimits, remote: RemoteImages | None, side: int) -> Conversation:
    """Blocking, for a worker thread.

    Args:
        body: A request whose number of images was checked.
        limits: Caps.
        remote: Fetches images by URL; None where data URIs only are taken.
        side: Pixels a side of the model's images, see `load_image_bytes`.

    Raises:
        ApiError: An image is refused; `param` says which.
    """
    reader = _Reader(limits, remote, side)
    messages: list[dict[str, Any]] = []
    shown: list[tuple[Attachment, Image.Image]] = []
    pixels = 0
    for index, message in enumerate(body.messages):
        role = "system" if isinstance(message, SystemMessage) else message.role
        content: str | list[dict[str, Any]]
        if isinstance(message.content, list):
            content, images = [], []
            for place, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    images.append(reader.read(part.url, f"messages.{index}.content.{place}"))
                    content.append({"type": "image", "image": images[-1][1]})
                else:
                    text = part.text if isinstance(part, TextPart) else part.refusal
                    content.append({"type": "text", "text": text})
            shown = images or shown
            pixels += sum(image.width * image.height for _, image in images)
        else:
            content = message.content or (message.refusal if isinstance(message, AssistantMessage) else None) or ""
        messages.append({"role": role, "content": content, **_of_tools(message, f"messages.{index}")})
    content = messages[-1]["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    subject, image = shown[0] if len(shown) == 1 and messages[-1]["role"] == "user" else (None, None)
    return Conversation(messages, pixels, subject, image.info["pixels"] if image else 0, "\n".join(texts))


def _of_tools(message: ChatMessage, place: str) -> dict[str, Any]:
    """What chat templates read of a message about tools beside its content."""
    if isinstance(message, AssistantMessage) and message.tool_calls:
        calls = enumerate(message.tool_calls)
        return {"tool_calls": [call.for_template(f"{place}.tool_calls.{number}") for number, call in calls]}
    if isinstance(message, ToolMessage):
        return message.model_dump(include={"tool_call_id", "name"}, exclude_none=True)
    return {}


class _Reader:
    """Counts the pixels of a request as its images are read."""

    def __init__(self, limits: ServerLimits, remote: RemoteImages | None, side: int) -> None:
        self._limits, self._remote, self._side = limits, remote, side
        self._images = 0
        self._pixels = 0
        self._deadline: float | None = None

    def read(self, url: str, param: str) -> tuple[Attachment, Image.Image]:
        self._images += 1
        name = f"image {self._images}"
        left = self._limits.request_pixels - self._pixels
        caps = replace(self._limits.image, pixels=min(self._limits.image.pixels, left))
        try:
            attachment = self._attachment(url, name, caps)
            image = attachment.decode(self._side)
        except UserError as error:
            message = str(error)
            if "pixels" in message and caps != self._limits.image:
                message += f" (all images of a request together may have {self._limits.request_pixels:,} pixels)"
            raise ApiError(400, message, param=param, code="invalid_image") from None
        self._pixels += image.info["pixels"]
        return attachment, image

    def _attachment(self, url: str, name: str, caps: ImageLimits) -> Attachment:
        if url[:5].lower() == "data:":
            return Attachment.from_data_uri(url, name, caps, isolated=True)
        if self._remote is None:
            raise UserError(
                f"{name} must be a data URI of the form data:image/png;base64,...; this server fetches no URLs"
            )
        self._deadline = self._deadline or self._remote.deadline()
        return Attachment(self._remote.fetch(url, self._deadline), name, caps, isolated=True)
