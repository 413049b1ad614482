"""A stored conversation as files: JSON for programs, Markdown with its pictures for people."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from langchain_core.messages import BaseMessage

from fourfold.assistant.chat.history import ChatHistory, image_of
from fourfold.assistant.grounding import parse

_ROLES = {"human": "user", "ai": "assistant"}


def export_conversation(history: ChatHistory, conversation: str, directory: str | Path) -> Path:
    """Write `conversation.json`, `conversation.md` and the pictures beside them.

    The JSON holds `id`, `title`, `created`, `updated` (seconds since 1970) and `messages`: OpenAI chat messages whose
    `image_url` parts name the picture files. The Markdown shows the pictures, and boxes as `phrase (x1, y1, x2, y2)` in
    hundredths.

    Returns:
        `directory`, made where it did not exist; files of the same names are replaced.

    Raises:
        UserError: there is no such conversation.
    """
    info = history.info(conversation)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    messages, lines = [], [f"# {_escape(info.title or 'Conversation')}", ""]
    for message in history.messages(conversation):
        parts = _parts(message, directory)
        messages.append({"role": _ROLES.get(message.type, message.type), "content": parts})
        lines += [f"**{messages[-1]['role']}**", ""]
        for part in parts:
            if part["type"] == "image_url":
                lines += [f"![]({part['image_url']['url']})", ""]
            else:
                lines += [readable(part["text"], _escape), ""]
    body = {"id": info.id, "title": info.title, "created": info.created, "updated": info.updated, "messages": messages}
    (directory / "conversation.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    (directory / "conversation.md").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    return directory


def _parts(message: BaseMessage, directory: Path) -> list[dict]:
    """The message's parts in OpenAI's shape; pictures are written to `directory` and named by their hash."""
    content = [message.content] if isinstance(message.content, str) else message.content
    parts: list[dict] = []
    for part in content:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if part["type"] == "image_url":
            link = part["image_url"]
            url = link["url"] if isinstance(link, dict) else link
            if url.startswith("data:"):
                image = image_of(url)
                url = image.sha256[:16] + image.suffix
                (directory / url).write_bytes(image.content)
            part = {"type": "image_url", "image_url": {"url": url}}
        parts.append(part)
    return [part for part in parts if part["type"] in ("text", "image_url")]


def readable(text: str, escape: Callable[[str], str] = str) -> str:
    """An answer for people: its boxes as `(x1, y1, x2, y2)` in hundredths, its words through `escape`."""
    shown = []
    for segment in parse(text).segments:
        if isinstance(segment, str):
            shown.append(escape(segment))
        else:
            sides = ([f"{100 * side:.0f}" for side in box.as_tuple()] for box in segment.boxes)
            corners = (f"({', '.join(four)})" for four in sides)
            shown.append(" ".join(filter(None, [escape(segment.phrase or ""), *corners])))
    return "".join(shown)


def _escape(text: str) -> str:
    """Nothing of it is Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", text)
