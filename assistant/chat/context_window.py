"""Fitting a long conversation into a model's context without losing what it is about, and into what it takes."""

import math
import re
from collections.abc import Sequence

from langchain_core.messages import BaseMessage, HumanMessage

_PIECES = re.compile(r"\d|\w+|[^\w\s]")


def estimate_tokens(message: BaseMessage, image_tokens: int) -> int:
    """About how many tokens a message takes: a digit, a sign or six letters each count one, which is on the high side.

    The tokenizer belongs to the endpoint, and an estimate that errs upwards only trims a little early.
    """
    parts = [message.content] if isinstance(message.content, str) else message.content
    tokens = 6  # role and turn marks
    for part in parts:
        if _is_image(part):
            tokens += image_tokens
        else:
            text = part if isinstance(part, str) else part.get("text", "")
            tokens += sum(1 + (len(piece) - 1) // 6 for piece in _PIECES.findall(text))
    return tokens


def trim(messages: Sequence[BaseMessage], limit: int, image_tokens: int) -> list[BaseMessage]:
    """Drop the oldest turns until about `limit` tokens are left; never system text, the latest image or the question.

    A turn is a user's message and what answers it. The images of a dropped turn move to the front of the next user's
    message, so that the model goes on seeing them and the roles still alternate; only once no earlier turn is left the
    oldest images go. Where even that is too long, the messages are returned as short as they can be and the endpoint
    has the last word.

    Args:
        messages: a conversation that ends with a user's message.
        limit: tokens that system text, images and words may take.
        image_tokens: tokens that one image takes.
    """
    system = [message for message in messages if message.type == "system"]
    turns: list[list[BaseMessage]] = []
    for message in messages:
        if message.type == "human" or not turns:
            turns.append([])
        if message.type != "system":
            turns[-1].append(message)
    turns = [turn for turn in turns if turn]

    def size() -> int:
        return sum(estimate_tokens(m, image_tokens) for turn in [system, *turns] for m in turn)

    while len(turns) > 1 and size() > limit:
        dropped = turns.pop(0)
        images = [part for m in dropped if not isinstance(m.content, str) for part in m.content if _is_image(part)]
        if images:
            first = turns[0][0]
            words = [{"type": "text", "text": first.content}] if isinstance(first.content, str) else first.content
            turns[0][0] = HumanMessage([*images, *words])
    kept = [*system, *(message for turn in turns for message in turn)]
    too_many = max(size() - limit, 0) / max(image_tokens, 1)
    return latest_images(kept, max(count_images(kept) - math.ceil(too_many), 1)) if too_many else kept


def answered(messages: Sequence[BaseMessage], question: HumanMessage) -> list[BaseMessage]:
    """A stored conversation and the next question as a model may read them: every earlier question has its answer.

    Of one that has none (it failed, or was stopped) only the pictures stay, in front of the next question. Messages
    that could not be read, and images that are gone, are left out.
    """
    found: list[BaseMessage] = []
    waiting: list[str | dict] = []
    skipped = False
    whole = [*messages, question]
    for message, follows in zip(whole, [*whole[1:], None], strict=True):
        if message.type != "human":
            if not skipped and message.text.strip():
                found.append(message)
            continue
        parts = [part for part in _parts(message) if not _is_gone(part)]
        skipped = follows is not None and not (message.text.strip() and follows.type == "ai" and follows.text.strip())
        if skipped:
            waiting += [part for part in parts if _is_image(part)]
        else:
            found.append(HumanMessage([*waiting, *parts]) if waiting or parts != _parts(message) else message)
            waiting = []
    return found


def count_images(messages: Sequence[BaseMessage]) -> int:
    return sum(_is_image(part) for m in messages if not isinstance(m.content, str) for part in m.content)


def latest_images(messages: Sequence[BaseMessage], most: int) -> list[BaseMessage]:
    """The same messages with their `most` latest images."""
    surplus = count_images(messages) - most
    found = []
    for message in messages:
        if surplus > 0 and not isinstance(message.content, str):
            kept = []
            for part in message.content:
                if _is_image(part) and surplus > 0:
                    surplus -= 1
                else:
                    kept.append(part)
            message = message.model_copy(update={"content": kept})
        found.append(message)
    return found


_TOO_MANY = re.compile(r"at most|too many|more than|maximum|max\b|limit|exceed|fewer|only", re.IGNORECASE)
_SEVERAL = re.compile(r"\bimages\b|image\(s\)|\bimage (?:in|per)\b", re.IGNORECASE)
_TOO_LARGE = 413  # HTTP


def images_allowed(status: int, words: str, sent: int) -> int | None:
    """How many images an endpoint takes at most, by its refusal of a request with `sent` of them.

    Servers say it in words of their own: "At most 4 image(s) may be provided in one prompt", "more than 16 images in
    one request". Where they only say that it is too much, half as many are tried.

    Returns:
        None where the refusal is about something else, or there was one image only.
    """
    if sent < 2:
        return None
    if status == _TOO_LARGE:
        return sent // 2
    if not _SEVERAL.search(words) or not _TOO_MANY.search(words):  # an image may be too large or of a wrong kind
        return None
    near = re.findall(r"(\d+)\s+(?:\w+\s+)?image|image\w*(?:\(s\))?\D{0,40}?(\d+)", words, re.IGNORECASE)
    numbers = [int(one or other) for one, other in near]
    return min((number for number in numbers if 0 < number < sent), default=sent // 2)


def _parts(message: BaseMessage) -> list[str | dict]:
    return [{"type": "text", "text": message.content}] if isinstance(message.content, str) else message.content


def _is_image(part: str | dict) -> bool:
    return isinstance(part, dict) and part.get("type") in ("image", "image_url")


def _is_gone(part: str | dict) -> bool:
    """Whether a part is an image that the history has lost: only its name is left."""
    link = part.get("image_url") if isinstance(part, dict) else None
    return str(link.get("url") if isinstance(link, dict) else link).startswith("sha256:")
