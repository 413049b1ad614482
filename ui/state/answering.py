"""Answers under way: fetched in the background, so that they survive whatever the page's script does meanwhile."""

import asyncio
import json
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from fourfold.assistant.chat.answer_parser import parse_so_far
from fourfold.assistant.chat.context_window import trim
from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.chat.look_again import LookedAgain, Step, ask_with, look_again
from fourfold.assistant.data_uri import from_data_uri
from fourfold.assistant.grounding import Grounded
from fourfold.prompts.errors import UserError
from fourfold.prompts.langchain import conversation_prompt
from fourfold.ui.state.endpoint import Endpoint, chat_model
from fourfold.ui.state.error_messages import sentence
from fourfold.ui.state.event_loop import begin
from fourfold.ui.state.pictures import decoded

IMAGE_TOKENS = 256  # MiniGPT-v2's; the default model takes 64
_REMEMBERED = "x-fourfold-remembered"  # the header of `serving.memory_door`
_CONTEXT = 32_768  # tokens, of an endpoint that does not say


@dataclass(frozen=True)
class BudgetedClient:
    """Who is asked, and how.

    Attributes:
        endpoint, model: the model's endpoint and its name there.
        adapts: the model that `model` is an adapter of, or None.
        context_length: tokens that it reads, where known.
        system: instructions for the whole conversation; "" for none.
        parameters: `temperature`, `max_tokens`, `top_p`, `seed`.
        remember: whether the endpoint is to remember corrections; None where it is not known to have any.
        looks: keyword arguments of `look_again` that are on: `check_claims`, `closer`, `read`, `agreement`.
    """

    endpoint: Endpoint
    model: str
    adapts: str | None = None
    context_length: int | None = None
    system: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    remember: bool | None = None
    looks: dict[str, Any] = field(default_factory=dict)


class Answering:
    """One model's answer to one question, as far as it has come. Its attributes may be read from any thread.

    Attributes:
        asker: who answers.
        text: what has arrived.
        steps: of looking again, as they happen.
        looked: what looking again came to.
        error: what went wrong, as a sentence; None where nothing did.
        stopped: whether somebody stopped it.
        done: whether nothing more will come.
    """

    def __init__(self, asker: BudgetedClient) -> None:
        self.asker = asker
        self.text = ""
        self.steps: list[Step] = []
        self.looked: LookedAgain | None = None
        self.error: str | None = None
        self.stopped = False
        self.done = False
        self._cancel = threading.Event()
        self._task: asyncio.Task[Any] | None = None
        self._began = time.monotonic()
        self._first: float | None = None
        self._last: float | None = None
        self._usage: dict[str, int] = {}
        self._finish: str | None = None
        self._remembered: str | None = None

    @property
    def so_far(self) -> Grounded:
        """The answer as it can be shown now, without markup that is cut off."""
        return parse_so_far(self.text)

    @property
    def seconds(self) -> float:
        """Since it was asked, until the answer's last word."""
        return (self._last if self._last is not None else time.monotonic()) - self._began

    def figures(self) -> dict[str, Any]:
        """What is kept beside the answer: JSON values."""
        figures: dict[str, Any] = {
            "model": self.asker.model,
            "adapts": self.asker.adapts,
            "parameters": self.asker.parameters,
            "seconds": round(self.seconds, 3),
            "first": None if self._first is None else round(self._first - self._began, 3),
            "finish_reason": "cancelled" if self.stopped else self._finish,
            **self._usage,
        }
        if self._remembered:
            figures["remembered"] = self._remembered
        if self.looked is not None:
            figures["looked"] = {
                "first": self.looked.first,
                "answer": self.looked.answer,
                "claims": self.looked.claims_json(),
                "closer": asdict(self.looked.closer) if self.looked.closer else None,
                "agreement": self.looked.agreement.text if self.looked.agreement else None,
                "stopped": self.looked.stopped,
                "calls": self.looked.calls,
                "seconds": round(self.looked.seconds, 3),
                "steps": [asdict(step) for step in self.looked.steps],
            }
        return json.loads(json.dumps(figures))

    def cancel(self) -> None:
        """End it where it is; from any thread."""
        if not self.done:
            self.stopped = True
            self._cancel.set()
            if self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def run(self, said: list[BaseMessage], question: HumanMessage) -> None:
        """Fetch the answer; whatever goes wrong ends up in `error`."""
        self._task = asyncio.current_task()
        try:
            if self._cancel.is_set():
                return
            await self._fetch(said, question)
            if self.text and any(self.asker.looks.values()):
                await self._look_again(said, question)
        except asyncio.CancelledError:
            self.stopped = True
        except Exception as error:  # the endpoint is anybody's, and so are its failures
            self.error = sentence(error, self.asker.endpoint.url)
        finally:
            self._cancel.set()
            self._last = self._last or time.monotonic()
            self.done = True

    async def _fetch(self, said: list[BaseMessage], question: HumanMessage) -> None:
        asker = self.asker
        prompt = conversation_prompt(asker.system or None)
        messages = prompt.invoke({"history": said, "question": [question]}).to_messages()
        room = (asker.context_length or _CONTEXT) - int(asker.parameters.get("max_tokens") or 256)
        options = {name: value for name, value in asker.parameters.items() if value is not None}
        if asker.remember is False:
            options["extra_body"] = {"memory": False}
        model = chat_model(asker.endpoint, asker.model, include_response_headers=True, **options)
        async for chunk in model.astream(trim(messages, room, IMAGE_TOKENS)):
            if chunk.text:
                self._first = self._first or time.monotonic()
                self.text += str(chunk.text)
            if usage := getattr(chunk, "usage_metadata", None):
                self._usage = {
                    "prompt_tokens": usage["input_tokens"],
                    "completion_tokens": usage["output_tokens"],
                    "cached_tokens": (usage.get("input_token_details") or {}).get("cache_read") or 0,
                }
            headers = chunk.response_metadata.get("headers") or {}
            self._remembered = headers.get(_REMEMBERED) or self._remembered
            self._finish = chunk.response_metadata.get("finish_reason") or self._finish
        self._last = time.monotonic()
        if self._finish is None:  # OpenAI's protocol ends every answer with a reason
            raise UserError("The connection broke off in the middle of the answer. Try again.")

    async def _look_again(self, said: list[BaseMessage], question: HumanMessage) -> None:
        picture = next((found[-1] for m in [question, *reversed(said)] if (found := pictures_of(m))), None)
        if picture is None:
            return
        # Looking again is to see, not to remember.
        options: dict[str, Any] = {} if self.asker.remember is None else {"extra_body": {"memory": False}}
        model = chat_model(self.asker.endpoint, self.asker.model, temperature=0, max_tokens=64, **options)

        def look() -> LookedAgain:
            image, words, looks = decoded(picture), text_of(question), self.asker.looks
            steps = self.steps.append
            return look_again(ask_with(model), image, words, self.text, cancel=self._cancel, on_step=steps, **looks)

        self.looked = await asyncio.to_thread(look)


class Asked:
    """A question under way, with one answer or, where models are compared, two.

    When the answers are complete, question and answer are stored together in place of whatever followed the first
    `keep` messages; until then the store holds what it held. An answer that somebody stops is kept as far as it came.

    Attributes:
        conversation: its id.
        keep: messages of the conversation that come before the question.
        question: as it is sent.
        picture: the latest up to the question, which the answers are about; None where there is none.
        answers: the first is the conversation's, the second is shown beside it.
        began: when it was asked, in seconds since 1970.
        stored: whether question and answer are in the history.
    """

    def __init__(
        self, history: ChatHistory, conversation: str, keep: int, question: HumanMessage, askers: list[BudgetedClient]
    ) -> None:
        self.history = history
        self.conversation = conversation
        self.keep = keep
        self.question = question
        self.answers = [Answering(asker) for asker in askers]
        self.began = time.time()
        self.stored = False
        self.done = False
        self.trouble: str | None = None  # with the history
        self._said = history.messages(conversation)[:keep]
        pictures = [picture for message in [*self._said, question] for picture in pictures_of(message)]
        self.picture = pictures[-1] if pictures else None
        self._work: list[Future[None]] = []

    def begin(self) -> None:
        """Ask."""
        self._work = [begin(answer.run(self._said, self.question)) for answer in self.answers]
        threading.Thread(target=self._finish, daemon=True).start()

    def stop(self) -> None:
        """End the answers where they are."""
        for answer in self.answers:
            answer.cancel()

    def _finish(self) -> None:
        for work in self._work:
            work.result()  # `run` raises nothing
        good = [answer for answer in self.answers if answer.text and answer.error is None]
        if good:
            figures = good[0].figures()
            others = [answer for answer in self.answers if answer is not good[0]]
            if others:
                figures["other"] = {**others[0].figures(), "text": others[0].text, "error": others[0].error}
            message = AIMessage(good[0].text, response_metadata={"fourfold": figures})
            try:
                replace_from(self.history, self.conversation, self.keep, [self.question, message])
                self.stored = True
            except UserError as error:  # deleted meanwhile, or the disk is full
                self.trouble = str(error)
        self.done = True


_under_way: dict[str, Asked] = {}


def ask(
    history: ChatHistory, conversation: str, keep: int, question: HumanMessage, askers: list[BudgetedClient]
) -> Asked:
    """Begin to answer a question; one that is under way in the same conversation is stopped."""
    if earlier := _under_way.get(conversation):
        earlier.stop()
    asked = _under_way[conversation] = Asked(history, conversation, keep, question, askers)
    asked.begin()
    return asked


def under_way(conversation: str | None) -> Asked | None:
    """The conversation's question that is being answered, or that failed and can be asked again."""
    asked = _under_way.get(conversation or "")
    if asked is not None and asked.stored:
        _under_way.pop(asked.conversation, None)
        return None
    return asked


def drop(conversation: str) -> None:
    """Stop and forget the conversation's question."""
    if asked := _under_way.pop(conversation, None):
        asked.stop()


def replace_from(history: ChatHistory, conversation: str, keep: int, messages: list[BaseMessage]) -> None:
    """Put messages into a conversation in place of whatever followed its first `keep`.

    Raises:
        UserError: as `ChatHistory.append`.
    """
    if len(history.messages(conversation)) > keep:
        history.cut(conversation, keep)
    history.append(conversation, messages)


def pictures_of(message: BaseMessage) -> list[bytes]:
    """The pictures inside a message."""
    if isinstance(message.content, str):
        return []
    links = [part["image_url"] for part in message.content if isinstance(part, dict) and part["type"] == "image_url"]
    urls = [link["url"] if isinstance(link, dict) else link for link in links]
    return [from_data_uri(url) for url in urls if url.startswith("data:")]


def text_of(message: BaseMessage) -> str:
    """The words of a message."""
    return str(message.text)
