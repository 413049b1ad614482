"""The endpoint that answers: which models it serves, and a LangChain chat model for each."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import openai
from langchain_openai import ChatOpenAI

from fourfold.assistant.chat.conversation import connect
from fourfold.assistant.chat.replies import AsyncClient, Client
from fourfold.assistant.checkpoints.card import Card, card_read
from fourfold.assistant.unicode import well_formed
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
    model: str | None = None  # a name that it serves, for an endpoint that does not list any


@dataclass(frozen=True)
class Served:
    """A model that an endpoint lists."""

    name: str
    parent: str | None = None  # the model that it adapts
    context_length: int | None = None  # tokens that it reads, where the endpoint says so
    eyes: str | None = None  # name under which it looks before it answers
    card: Card | None = None  # what it is good at, where the endpoint says so
    ours: bool = False  # whether `fourfold serve` serves it


def served_models(endpoint: Endpoint) -> list[Served]:
    """The models of an endpoint, in its order; a model and the same one with eyes are one.

    Where it answers but lists none, it is the one model that `endpoint` names.

    Raises:
        UserError: it does not answer, refuses the key, or serves none; one sentence.
    """
    url = endpoint.url.strip()
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url!r} is no address of an endpoint; it begins with http:// or https:// and ends with /v1")
    try:
        with openai.OpenAI(base_url=url, api_key=endpoint.key or "none", max_retries=0, timeout=_CONNECT) as client:
            cards = _cards(client.models.with_raw_response.list().http_response)
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.APIConnectionError) as error:
        raise UserError(sentence(error, url)) from None
    except (openai.OpenAIError, ValueError) as error:  # it answers, and this is not what it answers
        if endpoint.model:
            return [Served(endpoint.model)]
        if isinstance(error, openai.NotFoundError) or not isinstance(error, openai.OpenAIError):
            raise UserError(
                f"the endpoint {url} lists no models as OpenAI's do; its address usually ends with /v1. "
                "Where it is right, name the model (--model, or under Connection)"
            ) from None
        raise UserError(sentence(error, url)) from None
    found = []
    by_name = {card.id: card for card in cards}
    for card in cards:
        if card.id.endswith(EYES) and card.id.removesuffix(EYES) in by_name:
            continue
        extra: dict[str, Any] = card.model_extra or {}
        length = extra.get("max_model_len")
        parent = parent if isinstance(parent := extra.get("parent"), str) else None
        eyes = card.id + EYES if card.id + EYES in by_name else None
        told = card_read((by_name[eyes or card.id].model_extra or {}).get("card"))
        length = length if type(length) is int and length > 0 else None
        found.append(Served(card.id, parent, length, eyes, told, getattr(card, "owned_by", None) == "fourfold"))
    if not found and endpoint.model:
        return [Served(endpoint.model)]
    if not found:
        raise UserError(f"the endpoint {url} serves no model")
    return found


def _cards(response: Any) -> list[openai.types.Model]:
    """The models that an endpoint lists, also where it lists them without an envelope; ValueError where it lists none.

    Any program can answer at an address: web pages, lists of something else.
    """
    told = response.json()
    entries = told.get("data", told.get("models")) if isinstance(told, dict) else told
    if not isinstance(entries, list):
        raise ValueError("no list")
    names = [e.get("id") or e.get("name") or e.get("model") if isinstance(e, dict) else e for e in entries]
    made = []
    for name, entry in zip(names, entries, strict=True):
        if isinstance(name, str) and name.strip():
            extra = {key: value for key, value in entry.items() if key != "id"} if isinstance(entry, dict) else {}
            made.append(openai.types.Model.construct(id=well_formed(name), **extra))
    if entries and not made:
        raise ValueError("a list of something else")
    return made


def chat_model(endpoint: Endpoint, model: str, **options: Any) -> ChatOpenAI:
    """A LangChain chat model that reports its tokens and does not ask twice by itself."""
    return connect(
        endpoint.url,
        model,
        endpoint.key,
        stream_usage=True,
        max_retries=0,
        timeout=openai.Timeout(_READ, connect=_CONNECT),
        http_client=_client(),
        http_async_client=_async_client(),
        **options,
    )


@cache
def _client() -> Client:
    return Client()


@cache
def _async_client() -> AsyncClient:
    """One for the page's only loop, so that its connections are used again."""
    return AsyncClient()
