"""Answers under way: fetched in the background, so that they survive whatever the page's script does meanwhile."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from langchain_core.messages import HumanMessage

from fourfold.assistant.chat.conversation import Conversation, Exchange
from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.chat.look_again import LookedAgain, Step, ask_with, look_again
from fourfold.assistant.grounding import Grounded
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.memory import REMEMBERED_HEADER, CorrectionMemory, Recalled
from fourfold.prompts.errors import UserError
from fourfold.serving.looking.claim import claims_read
from fourfold.ui.state.endpoint import Endpoint, chat_model
from fourfold.ui.state.error_messages import sentence
from fourfold.ui.state.pictures import decoded
from fourfold.ui.state.turns import WRITTEN, pictures_of

log = logging.getLogger("fourfold.page")

IMAGE_TOKENS = 256  # MiniGPT-v2's; the default model takes 64
_CONTEXT = 32_768  # tokens, of an endpoint that does not say


@dataclass(frozen=True)
class ModelSettings:
    """Who is asked, and how."""

    endpoint: Endpoint
    model: str  # its name there
    adapts: str | None = None  # the model that it is an adapter of
    context_length: int | None = None  # tokens that it reads, where known
    system: str = ""  # instructions for the whole conversation
    parameters: dict[str, Any] = field(default_factory=dict)  # temperature, max_tokens, top_p, seed
    remember: bool | None = None  # corrections; None where the endpoint is not known to have any
    looks: dict[str, Any] = field(default_factory=dict)  # arguments of `look_again` that are on
    eyes: str | None = None  # the name to ask by, where it is not the model's own: one that looks before it answers
    memory: CorrectionMemory | None = None  # whose answers are given in place of the model's

    def conversation(self, history: ChatHistory) -> Conversation:
        """A chat with this model."""
        options = {name: value for name, value in self.parameters.items() if value is not None}
        if self.remember is False:
            options["extra_body"] = {"memory": False}
        return Conversation(
            chat_model(self.endpoint, self.eyes or self.model, include_response_headers=True, **options),
            history,
            system=self.system or None,
            context_length=self.context_length or _CONTEXT,
            answer_length=int(self.parameters.get("max_tokens") or 256),
            image_tokens=IMAGE_TOKENS,
        )


class StreamingAnswer:
    """One model's answer to one question, as far as it has come. Its attributes may be read from any thread."""

    def __init__(self, settings: ModelSettings, exchange: Exchange) -> None:
        self.settings = settings
        self.exchange = exchange
        self.so_far = Grounded("", (), (), "")
        self.steps: list[Step] = []  # of looking again, as they happen
        self.looked: LookedAgain | None = None
        self.recalled: str | None = None  # id of the correction that answers
        self.error: str | None = None  # as a sentence
        self.stopped = False  # by somebody
        self.done = False  # nothing more will come
        self._cancel = threading.Event()
        self._task: asyncio.Task[Any] | None = None
        self._began = time.monotonic()
        self._ended: float | None = None

    @property
    def text(self) -> str:
        """What has arrived."""
        return self.exchange.answer.text

    @property
    def seconds(self) -> float:
        """Since it was asked, until the answer's last word."""
        return (self.exchange.answer.last or self._ended or time.monotonic()) - self._began

    def figures(self) -> dict[str, Any]:
        """What is kept beside the answer: JSON values."""
        message, first = self.exchange.answer.message, self.exchange.answer.first
        told = message.response_metadata
        figures: dict[str, Any] = {
            "model": self.settings.model,
            "adapts": self.settings.adapts,
            "parameters": self.settings.parameters,
            "seconds": round(self.seconds, 3),
            "first": None if first is None else round(first - self._began, 3),
            "finish_reason": "cancelled" if self.stopped else self.exchange.answer.finish_reason,
        }
        if self.error is not None:
            figures["error"] = self.error
        if self.exchange.left_out:
            figures["left_out"] = self.exchange.left_out
        if usage := message.usage_metadata:
            figures["prompt_tokens"] = usage["input_tokens"]
            figures["completion_tokens"] = usage["output_tokens"]
            figures["cached_tokens"] = (usage.get("input_token_details") or {}).get("cache_read") or 0
        if remembered := self.recalled or (told.get("headers") or {}).get(REMEMBERED_HEADER):
            figures["remembered"] = remembered
        if thought := self.exchange.answer.thought:
            figures["thought"] = thought
        if claims := claims_read(message.additional_kwargs.get("claims")):
            figures["claims"] = [claim.to_json() for claim in claims]
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

    async def run(self, picture: Attachment | None) -> None:
        """Fetch the answer; whatever goes wrong ends up in `error`."""
        self._task = asyncio.current_task()
        try:
            if self._cancel.is_set():
                return
            if (recalled := await asyncio.to_thread(self._recall)) is not None:
                self.recalled = recalled.id
                for answer in self.exchange.answer.read(iter([recalled.answer])):
                    self.so_far = answer
                return
            async for answer in self.exchange.astream():
                self.so_far = answer
            if self.text and picture is not None and any(self.settings.looks.values()):
                self.looked = await asyncio.to_thread(self._look_again, picture)
        except asyncio.CancelledError:
            self.stopped = True
        except Exception as error:  # the endpoint is anybody's, and so are its failures
            self.error = sentence(error, self.settings.endpoint.url)
        finally:
            self._cancel.set()
            self._ended = time.monotonic()
            self.done = True

    def _recall(self) -> Recalled | None:
        """What was corrected about this question; a memory that fails is no reason not to ask."""
        shown = next((found for m in reversed(self.exchange.messages) if (found := pictures_of(m))), [])
        if self.settings.memory is None or len(shown) != 1:
            return None
        try:
            return self.settings.memory.recall(shown[0], str(self.exchange.question.text))
        except UserError:
            return None

    def _look_again(self, picture: Attachment) -> LookedAgain:
        # Looking again is to see, not to remember.
        options: dict[str, Any] = {} if self.settings.remember is None else {"extra_body": {"memory": False}}
        model = chat_model(self.settings.endpoint, self.settings.model, temperature=0, max_tokens=64, **options)
        return look_again(
            ask_with(model),
            decoded(picture),
            str(self.exchange.question.text),
            self.text,
            cancel=self._cancel,
            on_step=self.steps.append,
            **self.settings.looks,
        )


class PendingTurn:
    """A question under way, with one answer or, where models are compared, two.

    The question is stored when it is asked, and its answer when it is complete, or as far as it came: stopped by
    somebody, or broken off. Where no word came, the question remembers why.

    Args:
        history: where.
        conversation: to which it belongs.
        keep: messages of it that are shown and stay so; the question is another version of what followed. None: all.
        words, pictures: of the question.
        models: that answer.
        question: number of a stored question to be answered anew, in place of `keep`.
        written: what the page shows in place of `words`; None for the same.

    Raises:
        UserError: the question cannot be stored.
    """

    def __init__(
        self,
        history: ChatHistory,
        conversation: str,
        keep: int | None,
        words: str,
        pictures: Sequence[Attachment],
        models: Sequence[ModelSettings],
        question: int | None = None,
        written: str | None = None,
    ) -> None:
        self.history = history
        self.conversation = conversation
        self.words = words
        self.pictures = pictures
        given: dict[str, Any] = {"conversation": conversation, "keep": keep, "text": words, "images": pictures}
        if question is not None:
            given = {"conversation": conversation, "question": question}
        first, *others = models
        exchange = first.conversation(history).ask(given)
        if written is not None and written != words:
            exchange.question.additional_kwargs[WRITTEN] = written  # kept with it, and sent to nobody
        self.number = exchange.begin()  # of the question
        self.answers = [StreamingAnswer(first, exchange)]
        for model in others:
            again = model.conversation(history).ask({"conversation": conversation, "question": self.number})
            self.answers.append(StreamingAnswer(model, again))
        if exchange.question.response_metadata:  # why it had no answer, the last time
            history.replace(conversation, self.number, _question(exchange.question, {}))
        seen = [picture for message in self.answers[0].exchange.messages for picture in pictures_of(message)]
        self.picture = seen[-1] if seen else None  # the latest, which the answers are about
        self.began = time.time()
        self.stored = False
        self.done = False
        self.trouble: str | None = None  # with the history, as a sentence

    @property
    def failed(self) -> bool:
        """Whether it ended and could not be kept. An answer may be complete at any moment: ask once a drawing."""
        return self.done and not self.stored

    def stop(self) -> None:
        for answer in self.answers:
            answer.cancel()

    async def run(self) -> None:
        """Fetch the answers and store them."""
        try:
            await asyncio.gather(*(answer.run(self.picture) for answer in self.answers))
            await asyncio.to_thread(self._store)
        finally:
            self.done = True

    def _store(self) -> None:
        spoken = [answer for answer in self.answers if answer.exchange.answer.kept]
        good = [answer for answer in spoken if answer.error is None] or spoken
        try:
            if good:
                good[0].exchange.store({"fourfold": self._figures(good[0])})
            else:
                question = _question(self.answers[0].exchange.question, _why_silent(self.answers[0]))
                self.history.replace(self.conversation, self.number, question)
            self.stored = True
        except UserError as error:  # deleted meanwhile, or the disk is full
            self.trouble = str(error)
        except Exception as error:  # whatever it is, it is said that the answer was not kept
            log.exception("an answer could not be kept")
            self.trouble = f"The answer could not be kept ({type(error).__name__}); the page's log has more."

    def _figures(self, kept: StreamingAnswer) -> dict[str, Any]:
        figures = kept.figures()
        if others := [answer for answer in self.answers if answer is not kept]:
            figures["other"] = {
                **others[0].figures(),
                "text": others[0].text,
                "error": others[0].error,
                "first": others[0] is self.answers[0],  # it stays on the left, where it was while it arrived
            }
        return figures


def _question(question: HumanMessage, why: dict[str, Any]) -> HumanMessage:
    return question.model_copy(update={"response_metadata": {"fourfold": why} if why else {}})


def _why_silent(answer: StreamingAnswer) -> dict[str, Any]:
    """Why not a word came of an answer."""
    why: dict[str, Any] = {"thought": answer.exchange.answer.thought} if answer.exchange.answer.thought else {}
    if answer.error is not None:
        return {**why, "error": answer.error}
    return {**why, "stopped": True} if answer.stopped else {**why, "empty": True}


_under_way: dict[str, PendingTurn] = {}


def ask(
    history: ChatHistory,
    conversation: str,
    keep: int | None,
    words: str,
    pictures: Sequence[Attachment],
    models: Sequence[ModelSettings],
    question: int | None = None,
    written: str | None = None,
) -> PendingTurn:
    """Begin to answer a question, see `PendingTurn`; one that is under way in the same conversation is stopped."""
    if earlier := _under_way.get(conversation):
        earlier.stop()
    turn = PendingTurn(history, conversation, keep, words, pictures, models, question, written)
    _under_way[conversation] = turn
    asyncio.run_coroutine_threadsafe(turn.run(), _loop())
    return turn


def under_way(conversation: str | None) -> PendingTurn | None:
    """The conversation's question that is being answered, or whose answer could not be kept."""
    turn = _under_way.get(conversation or "")
    if turn is not None and turn.stored:
        if _under_way.get(turn.conversation) is turn:  # another tab may have asked since
            _under_way.pop(turn.conversation, None)
        return None
    return turn


def drop(conversation: str) -> None:
    if turn := _under_way.pop(conversation, None):
        turn.stop()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all answers, because HTTP clients that LangChain shares belong to the loop that used them first."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="answers", daemon=True).start()
    return loop
