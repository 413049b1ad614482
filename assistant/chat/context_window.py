"""Fitting a long conversation into a model's context without losing what it is about."""

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
    """Drop the oldest turns until about `limit` tokens are left; never system text, an image or the last question.

    A turn is a user's message and what answers it. The images of a dropped turn move to the front of the next user's
    message, so that the model goes on seeing them and the roles still alternate. Where even that is too long, the
    messages are returned as short as they can be and the endpoint has the last word.

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
    return [*system, *(message for turn in turns for message in turn)]


def _is_image(part: str | dict) -> bool:
    return isinstance(part, dict) and part.get("type") in ("image", "image_url")
