"""The endpoint that answers: which models it serves, and a LangChain chat model for each."""

from dataclasses import dataclass, field
from typing import Any

import openai
from langchain_openai import ChatOpenAI

from fourfold.assistant.chat.conversation import connect
from fourfold.prompts.errors import UserError
from fourfold.serving.looking.claim import EYES
from fourfold.ui.state.error_messages import sentence

_CONNECT = 5.0  # seconds
_READ = 300.0  # between two pieces of an answer; a processor may read a picture for a while


@dataclass(frozen=True)
class Endpoint:
    """Where answers come from."""

    url: str  # with its /v1
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Served:
    """A model that an endpoint lists."""

    name: str
    parent: str | None = None  # the model that it adapts
    context_length: int | None = None  # tokens that it reads, where the endpoint says so
    eyes: str | None = None  # name under which it looks before it answers


def served_models(endpoint: Endpoint) -> list[Served]:
    """The models of an endpoint, in its order; a model and the same one with eyes are one.

    Raises:
        UserError: it does not answer, refuses the key, or serves none; one sentence.
    """
    url = endpoint.url.strip()
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url!r} is no address of an endpoint; it begins with http:// or https:// and ends with /v1")
    try:
        with openai.OpenAI(base_url=url, api_key=endpoint.key or "none", max_retries=0, timeout=_CONNECT) as client:
            cards = list(client.models.list())
    except (openai.OpenAIError, ValueError, TypeError) as error:
        raise UserError(sentence(error, url)) from None
    found = []
    names = {card.id for card in cards}
    for card in cards:
        if card.id.endswith(EYES) and card.id.removesuffix(EYES) in names:
            continue
        extra: dict[str, Any] = card.model_extra or {}
        length = extra.get("max_model_len")
        parent = extra.get("parent")
        eyes = card.id + EYES if card.id + EYES in names else None
        found.append(Served(card.id, parent, length if isinstance(length, int) else None, eyes))
    if not found:
        raise UserError(f"the endpoint {url} serves no model")
    return found


def chat_model(endpoint: Endpoint, model: str, **options: Any) -> ChatOpenAI:
    """A LangChain chat model that reports its tokens and does not ask twice by itself."""
    return connect(
        endpoint.url,
        model,
        endpoint.key,
        stream_usage=True,
        max_retries=0,
        timeout=openai.Timeout(_READ, connect=_CONNECT),
        **options,
    )
