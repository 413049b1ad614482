"""A stored conversation as files: JSON for programs, Markdown with its pictures for people."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.chat.message_tree import path_of
from fourfold.assistant.chat.stored_message import image_of
from fourfold.assistant.grounding import parse

_ROLES = {"human": "user", "ai": "assistant"}


def export_conversation(history: ChatHistory, conversation: str, directory: str | Path) -> Path:
    """Write `conversation.json`, `conversation.md` and the pictures beside them.

    The JSON holds `id`, `title`, `created`, `updated` (seconds since 1970) and `messages`: OpenAI chat messages whose
    `image_url` parts name the picture files. Where there are earlier versions of something, `versions` holds every
    message as `{"number", "parent", "shown", "created", "role", "content"}`: messages with one `parent` are versions,
    and those that are `shown`, from the one without a parent on, are `messages`. The Markdown shows the pictures, and
    boxes as `phrase (x1, y1, x2, y2)` in hundredths; earlier versions stand at its end.

    Returns:
        `directory`, made where it did not exist; files of the same names are replaced.

    Raises:
        UserError: there is no such conversation.
    """
    info, versions = history.info(conversation), history.versions(conversation)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    whole = {stored.number: _openai(stored.message, directory) for stored in versions}
    shown = [stored.number for stored in path_of(versions)]
    lines = [f"# {_escape(info.title or 'Conversation')}", ""]
    for number in shown:
        lines += _markdown(whole[number])
    body: dict[str, Any] = {"id": info.id, "title": info.title, "created": info.created, "updated": info.updated}
    body["messages"] = [whole[number] for number in shown]
    if earlier := [stored for stored in versions if stored.number not in shown]:
        body["versions"] = [
            {
                "number": stored.number,
                "parent": stored.parent,
                "shown": stored.shown,
                "created": stored.created,
                **whole[stored.number],
            }
            for stored in versions
        ]
        lines += ["## Other versions", ""]
        for stored in earlier:
            if stored.parent in shown or stored.parent is None:  # where it leaves what is shown
                before = _first_words(whole[stored.parent]) if stored.parent is not None else ""
                lines += [f"After “{_escape(before)}”:" if before else "At the beginning:", ""]
            lines += _markdown(whole[stored.number])
    (directory / "conversation.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    (directory / "conversation.md").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    return directory


def _openai(message: BaseMessage, directory: Path) -> dict[str, Any]:
    return {"role": _ROLES.get(message.type, message.type), "content": _parts(message, directory)}


def _markdown(message: dict[str, Any]) -> list[str]:
    lines = [f"**{message['role']}**", ""]
    for part in message["content"]:
        if part["type"] == "image_url":
            lines += [f"![]({part['image_url']['url']})", ""]
        else:
            lines += [readable(part["text"], _escape), ""]
    return lines


def _first_words(message: dict[str, Any]) -> str:
    text = " ".join(part["text"] for part in message["content"] if part["type"] == "text")
    words = " ".join(parse(text).plain.split())
    return words if len(words) <= 80 else words[:79] + "…"


def _parts(message: BaseMessage, directory: Path) -> list[dict]:
    """The message's parts in OpenAI's shape; pictures are written to `directory` and named by their hash."""
    content = [message.content] if isinstance(message.content, str) else message.content
    parts: list[dict] = []
    for part in content:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if part.get("type") == "image_url":
            link = part["image_url"]
            url = link["url"] if isinstance(link, dict) else link
            if url.startswith("data:"):
                image = image_of(url)
                url = image.sha256[:16] + image.suffix
                (directory / url).write_bytes(image.content)
            part = {"type": "image_url", "image_url": {"url": url}}
        parts.append(part)
    return [part for part in parts if part.get("type") in ("text", "image_url")]


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
    text = re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", text)
    # Lists, and lines under a heading.
    return re.sub(r"(?m)^[ \t]*(?:(?=[-+=])|\d+(?=[.)]))", r"\g<0>\\", text)
