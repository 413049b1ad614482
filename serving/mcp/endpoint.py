"""An endpoint that answers the tools' questions."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError
from fourfold.serving.looking.claim import EYES, Claim, claims_read, own_claims
from fourfold.serving.mcp.answerers import Closed, Tell
from fourfold.serving.mcp.results import Decision

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass
class Endpoint:
    """A server that speaks OpenAI's chat completions, ours or anybody's.

    Attributes:
        url: such as http://127.0.0.1:8000/v1.
        name: of the model; "" for the first that is offered, the one with eyes where there is one.
        api_key: where the endpoint wants one.
    """

    url: str
    name: str = ""
    api_key: str = "none"
    _client: "OpenAI | None" = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def answer(
        self, images: Sequence[Attachment], question: str, max_tokens: int, cancel: threading.Event, tell: Tell
    ) -> tuple[str, tuple[Claim, ...]]:
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": one.data_uri}} for one in images]
        content: Any = [*parts, {"type": "text", "text": question}]
        client = self._connected()
        tell(f"asking {self.name}")
        with _in_sentences(self.url):
            reply = client.chat.completions.create(
                model=self.name, messages=[{"role": "user", "content": content}], max_tokens=max_tokens
            )
            message = reply.choices[0].message
            text = message.content or ""
        claims = claims_read((message.model_extra or {}).get("claims"))
        return text, claims or own_claims(text)

    def decide(self, image: Attachment, questions: Sequence[Closed], tell: Tell) -> list[Decision]:
        shown: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": image.data_uri}]}]
        asked: list[Any] = []
        for number, one in enumerate(questions):
            kind: dict[str, Any] = {"type": "predicate"}
            if one.options:
                kind = {"type": "choice", "choices": [{"value": option} for option in one.options]}
            asked.append({**kind, "name": str(number), "instructions": one.words})
        client = self._connected()
        tell(f"asking {self.name}")
        with _in_sentences(self.url):
            raw = client.decisions.with_raw_response.create(model=self.name, input=shown, questions=asked)
            answers = raw.parse().answers
            calibrated = raw.headers.get("x-fourfold-probabilities") == "calibrated"
            return [
                Decision(
                    question=one.words,
                    answer=max(shares, key=shares.__getitem__),
                    probabilities=shares,
                    calibrated=calibrated,
                    source=self.name,
                )
                for one, answer in zip(questions, answers, strict=True)
                for shares in [_shares(answer)]
            ]

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _connected(self) -> "OpenAI":
        from openai import OpenAI

        with self._lock:
            if self._client is None:
                client = OpenAI(base_url=self.url, api_key=self.api_key, timeout=300, max_retries=1)
                if not self.name:
                    with _in_sentences(self.url):
                        offered = [model.id for model in client.models.list()]
                        self.name = next((name for name in offered if name.endswith(EYES)), offered[0])
                self._client = client
            return self._client


def _shares(answer: Any) -> dict[str, float]:
    if answer.type == "predicate":
        return {"yes": answer.probability, "no": 1 - answer.probability}
    return {str(one.value): one.probability for one in answer.probabilities}


@contextlib.contextmanager
def _in_sentences(url: str) -> Iterator[None]:
    """Makes sentences of what goes wrong at an endpoint."""
    from openai import APIConnectionError, APIStatusError, OpenAIError

    try:
        yield
    except APIConnectionError:
        raise UserError(f"{url} cannot be reached; start a server with fourfold serve") from None
    except APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        said = body.get("message") or f"it answered {error.status_code}"
        raise UserError(f"{url} refused the question: {str(said)[:300]}") from None
    except (OpenAIError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise UserError(f"{url} answered nothing that could be read; is it an OpenAI endpoint?") from None
