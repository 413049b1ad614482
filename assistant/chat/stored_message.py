"""A message of a conversation as a row of its file, and back: images apart, words that can be searched, nothing odd."""

import json
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, message_to_dict, messages_from_dict

from fourfold.assistant.images import Attachment, ImageLimits
from fourfold.assistant.unicode import well_formed

UNREADABLE = "unreadable"
"""In the `response_metadata["fourfold"]` of a message that stands for a row which cannot be read: why."""


def image_of(uri: str) -> Attachment:
    """The image of a data URI in a message; of any size, because what is stored was let in when it came.

    Raises:
        UserError: it is none.
    """
    return Attachment.from_data_uri(uri, "an image in a message", ImageLimits(bytes=2**30))


def to_row(message: BaseMessage) -> tuple[str, list[Attachment]]:
    """JSON of a message without its images, and the images.

    Halves of characters are mended on the way: whatever reads the row again may have to write it down.
    """
    images: list[Attachment] = []

    def keep(uri: Any) -> Any:
        if not (isinstance(uri, str) and uri.startswith("data:")):
            return uri
        images.append(image_of(uri))
        return f"sha256:{images[-1].sha256}"

    body = message_to_dict(message)
    body["data"]["content"] = _map_urls(body["data"]["content"], keep)
    return well_formed(json.dumps(body, ensure_ascii=False)), images


def from_row(body: str, uris: Mapping[str, str], *, asked: bool) -> BaseMessage:
    """The message of a row; one that says so where it cannot be read, so that the others still can.

    Args:
        body: what `to_row` made, or what else stands there.
        uris: data URIs of the images by the names that stand in the body.
        asked: whether the row stands where a question does, for one that does not tell.
    """
    try:
        read = json.loads(well_formed(json.dumps(json.loads(body), ensure_ascii=False)))
        read["data"]["content"] = _map_urls(read["data"]["content"], lambda url: uris.get(url, url))
        message = messages_from_dict([read])[0]
        str(message.text)  # what everybody asks for next
        return message
    except Exception as error:  # whatever wrote it: it must not lock what stands beside it
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        made = HumanMessage if asked else AIMessage
        return made("", response_metadata={"fourfold": {UNREADABLE: why}})


def words_of(message: BaseMessage) -> str:
    """The text of a message without its images."""
    if isinstance(message.content, str):
        return well_formed(message.content)
    texts = (part if isinstance(part, str) else str(part.get("text") or "") for part in message.content)
    return well_formed("\n".join(text for text in texts if text))


def _map_urls(content: Any, change: Any) -> Any:
    """Message content with `change` applied to the URL of every image part, in both shapes that clients write."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "image_url":
            link = part["image_url"]
            new = {**link, "url": change(link["url"])} if isinstance(link, dict) else change(link)
            part = {**part, "image_url": new}
        elif isinstance(part, dict) and part.get("type") == "image" and "base64" in part:
            # LangChain's own shape: stored and given back as an `image_url` part, which every endpoint reads.
            url = f"data:{part.get('mime_type', 'image/png')};base64,{part['base64']}"
            part = {"type": "image_url", "image_url": {"url": change(url)}}
        parts.append(part)
    return parts
