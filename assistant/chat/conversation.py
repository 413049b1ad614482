"""Chatting about images as LangChain runnables, against any OpenAI-compatible endpoint."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import openai
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from fourfold.assistant.chat.answer_parser import AnswerParser, GrowingAnswer
from fourfold.assistant.chat.context_window import answered, count_images, images_allowed, latest_images, trim
from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.chat.message_tree import StoredMessage
from fourfold.assistant.chat.replies import AsyncClient, Client, mended_chunk
from fourfold.assistant.chat.stored_message import image_of
from fourfold.assistant.grounding import Grounded, box_format_of
from fourfold.assistant.images import image_url
from fourfold.prompts.errors import UserError
from fourfold.prompts.langchain import conversation_prompt, question_prompt
from fourfold.prompts.tasks import Task, instruction, parse_task


class ChatEndpoint(ChatOpenAI):
    """`ChatOpenAI` that keeps more than OpenAI's own fields, among `additional_kwargs`.

    "reasoning_content" is what a model thought before it answered, where the server keeps that apart. "claims" is what
    our server says of where an answer comes from, a list of
    `{"phrase", "box": [x1, y1, x2, y2] in 0..1 or None, "confidence": 0..1 or None, "source"}`.
    """

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict, default_chunk_class: type, base_generation_info: dict | None
    ) -> ChatGenerationChunk | None:
        chunk = mended_chunk(chunk)
        made = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        choices = chunk.get("choices") or [{}]
        if made is not None:
            made.message.additional_kwargs |= _told_beside(choices[0].get("delta"))
        return made

    def _create_chat_result(self, response: dict | openai.BaseModel, generation_info: dict | None = None) -> ChatResult:
        told = response if isinstance(response, dict) else response.model_dump(warnings=False)
        if isinstance(told.get("choices"), list):
            told = mended_chunk(told)
            told["choices"] = [{**choice, "message": choice["delta"]} for choice in told["choices"]]
        result = super()._create_chat_result(told, generation_info)
        for generation, choice in zip(result.generations, told["choices"], strict=True):
            generation.message.additional_kwargs |= _told_beside(choice["message"])
        return result


def _told_beside(message: Any) -> dict[str, Any]:
    """What a message or a piece of one says beside its text. Servers name a thought in one of two ways."""
    if not isinstance(message, dict):
        return {}
    thought = message.get("reasoning_content") or message.get("reasoning")
    found = {"claims": message.get("claims"), "reasoning_content": thought if isinstance(thought, str) else None}
    return {name: value for name, value in found.items() if value}


def connect(base_url: str, model: str | None = None, api_key: str | None = None, **options: Any) -> ChatEndpoint:
    """A LangChain chat model that talks to the endpoint at `base_url` (`http://127.0.0.1:8000/v1`).

    Args:
        base_url: where `/chat/completions` is found.
        model: its name there; None takes the first one that the endpoint lists.
        api_key: the endpoint's key. The environment's OPENAI_API_KEY is never used: it belongs to another service.
        **options: further settings of `ChatOpenAI`; greedy (`temperature=0`) unless given.

    Raises:
        UserError: the endpoint does not answer, refuses the key or serves no model.
    """
    key = api_key or "none"
    if model is None:
        try:
            with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=10) as client:
                names = [served.id for served in client.models.list()]
        except openai.AuthenticationError:
            raise UserError(f"the endpoint {base_url} refuses this API key; give the right one") from None
        except openai.OpenAIError as error:
            raise UserError(f"the endpoint {base_url} does not answer ({error}); is it running?") from None
        if not names:
            raise UserError(f"the endpoint {base_url} serves no model")
        model = names[0]
    clients = {"http_client": Client(), "http_async_client": AsyncClient()}
    return ChatEndpoint(
        base_url=base_url, api_key=SecretStr(key), model=model, **{"temperature": 0} | clients | options
    )


def question_chain(model: Runnable, task: Task | None = None) -> Runnable[dict[str, Any], Grounded]:
    """One question about one image: a runnable over `{"image": path, URL, bytes or PIL image, "text": str}`.

    Args:
        model: a LangChain chat model, as `connect` makes it.
        task: what to ask for; `text` is then the question, phrase or box of that task. None sends `text` as it is.

    Returns:
        prompt | model | parser; `invoke` gives the answer with its boxes, read as the model's name tells, `stream` the
        answer so far. Boxes in pixels need a parser that knows the image's size.
    """
    parser = AnswerParser(box_format=box_format_of(getattr(model, "model_name", None)))

    def fill(given: dict[str, Any]) -> dict[str, str]:
        text = given.get("text", "")
        return {"image_url": image_url(given["image"]), "text": instruction(task, text) if task else text}

    return RunnableLambda(fill, name="image to URL") | question_prompt() | model | parser


def _size_shown(messages: Sequence[BaseMessage]) -> tuple[int, int] | None:
    """Width and height of the latest picture that the model reads; None where there is none at hand."""
    for message in reversed(messages):
        for part in reversed(message.content if isinstance(message.content, list) else []):
            if isinstance(part, dict) and part.get("type") == "image_url":
                link = part["image_url"]
                url = link["url"] if isinstance(link, dict) else link
                return image_of(url).decode().size if url.startswith("data:") else None
    return None


class Exchange:
    """A question of a conversation and its answer while it arrives; `Conversation.ask` begins one.

    Attributes:
        question: as it is stored.
        number: of the stored question; None until `begin`.
        messages: all that the model reads; the question is the last one.
        answer: what has arrived.
        left_out: older pictures of the conversation that the model does not get, because its context or its endpoint
            does not take so many.
    """

    def __init__(
        self,
        model: Runnable,
        history: ChatHistory,
        given: dict[str, Any],
        question: HumanMessage,
        messages: list[BaseMessage],
        pictures: int,
    ) -> None:
        self.question = question
        self.number: int | None = given.get("question")
        self.messages = messages
        box_format = box_format_of(getattr(model, "model_name", None))
        self.answer = GrowingAnswer(box_format, _size_shown(messages) if box_format.needs_size else None)
        self._model, self._history, self._given = model, history, given
        self._pictures = pictures  # of the conversation so far
        self._served = getattr(model, "openai_api_base", None), getattr(model, "model_name", None)
        self._most: int | None = None  # images, by its refusal
        if (most := _images_allowed.get(self._served)) is not None:
            self.messages = latest_images(messages, most)

    @property
    def left_out(self) -> int:
        return self._pictures - count_images(self.messages)

    def begin(self) -> int:
        """Keep the question, so that it stays whatever becomes of its answer; its number.

        Raises:
            UserError: there is no such conversation, or its disk is full.
        """
        if self.number is None:
            given = self._given
            self.number = self._history.append(given["conversation"], [self.question], given.get("keep"))
        assert self.number is not None
        return self.number

    def invoke(self, config: RunnableConfig | None = None, **kwargs: Any) -> Grounded:
        """The whole answer at once."""
        while True:
            try:
                *_, answer = self.answer.read(iter([self._model.invoke(self.messages, config, **kwargs)]))
                self._remember_limit()
                return answer
            except openai.APIStatusError as error:
                if not self._with_fewer_images(error):
                    raise

    def stream(self, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Grounded]:
        """The answer so far, again and again; the last one is the whole."""
        while True:
            try:
                yield from self.answer.read(self._model.stream(self.messages, config, **kwargs))
                return self._remember_limit()
            except openai.APIStatusError as error:
                if not self._with_fewer_images(error):
                    raise

    async def astream(self, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Grounded]:
        while True:
            try:
                async for answer in self.answer.aread(self._model.astream(self.messages, config, **kwargs)):
                    yield answer
                self._remember_limit()
                return
            except openai.APIStatusError as error:
                if not self._with_fewer_images(error):
                    raise

    def store(self, metadata: dict[str, Any] | None = None) -> None:
        """Keep the answer behind the question; nothing where no word of it has come.

        Args:
            metadata: the answer's `response_metadata`; None for what the model told, with "cancelled" for the reason of
                the end where it did not come to one.
        """
        message = self.answer.message
        if metadata is None:
            cancelled = {} if self.answer.last else {"finish_reason": "cancelled"}
            metadata = message.response_metadata | cancelled
        if self.answer.kept or self.answer.last:
            kept = AIMessage(self.answer.kept, response_metadata=metadata)
            self._history.append(self._given["conversation"], [kept], after=self.begin())

    def _with_fewer_images(self, error: openai.APIStatusError) -> bool:
        """Whether an endpoint's refusal was of the number of images; if so, the older ones are left out."""
        if self.answer.pieces:
            return False
        most = images_allowed(error.status_code, str(error), count_images(self.messages))
        if most is None:
            return False
        self._most = most
        self.messages = latest_images(self.messages, most)
        return True

    def _remember_limit(self) -> None:
        """Once fewer images were answered, no more are sent there."""
        if self._most is not None:
            _images_allowed[self._served] = self._most


_images_allowed: dict[tuple[str | None, str | None], int] = {}
"""By the address and model that refused more; for as long as this process runs."""


class Conversation(Runnable[dict[str, Any], Grounded]):
    """A chat that remembers: a runnable over one question of a stored conversation.

    Its input is `{"conversation": id, "text": str}` with, optionally, `"images"` (a list of paths, URLs, bytes or PIL
    images), `"task"` (a task or its name) and `"keep"` (how many of its messages are kept in sight: the question is
    another version of what followed them), or `{"conversation": id, "question": number}`, which asks a stored question
    again. Its output is the answer with its boxes; `stream` gives the answer so far. The question is stored when it is
    asked and the answer once it is complete. A stream that its reader leaves early stores what had arrived, with
    `finish_reason` "cancelled"; where an endpoint fails the question stands without an answer and the error
    (`openai.OpenAIError`) goes through. A stream that ends without telling why is kept without a `finish_reason`.

    Args:
        model: a LangChain chat model, as `connect` makes it.
        history: where conversations are kept; `history.create()` starts one.
        system: instructions for every conversation; not stored.
        context_length: tokens of the model's context.
        answer_length: tokens of it to leave for the answer.
        image_tokens: tokens that one image takes.
    """

    def __init__(
        self,
        model: Runnable,
        history: ChatHistory,
        *,
        system: str | None = None,
        context_length: int = 2048,
        answer_length: int = 256,
        image_tokens: int = 256,
    ) -> None:
        self.model = model
        self.history = history
        self._prompt = conversation_prompt(system)
        self._limit = context_length - answer_length
        self._image_tokens = image_tokens

    def ask(self, given: dict[str, Any]) -> Exchange:
        """Make the question and everything that the model gets to read; nothing is sent yet.

        Raises:
            UserError: there is no such conversation, an image is none, or the question is empty.
        """
        conversation = given["conversation"]
        if (number := given.get("question")) is not None:
            said = _up_to(self.history.versions(conversation), number)
            question = said.pop()
        else:
            question = _question(given)
            said = self.history.messages(conversation)[: given.get("keep")]
        *earlier, asked = answered(said, question)
        messages = self._prompt.invoke({"history": earlier, "question": [asked]}).to_messages()
        short = trim(messages, self._limit, self._image_tokens)
        return Exchange(self.model, self.history, given, question, short, count_images(messages))

    def invoke(self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> Grounded:
        """Ask and wait for the whole answer."""
        exchange = self.ask(input)
        exchange.begin()
        answer = exchange.invoke(config, **kwargs)
        exchange.store()
        return answer

    def stream(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> Iterator[Grounded]:
        """The answer so far, again and again; the last one is the whole."""
        exchange = self.ask(input)
        exchange.begin()
        try:
            yield from exchange.stream(config, **kwargs)
        except GeneratorExit:
            exchange.store()
            raise
        exchange.store()

    async def astream(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> AsyncIterator[Grounded]:
        exchange = await asyncio.to_thread(self.ask, input)
        await asyncio.to_thread(exchange.begin)
        try:
            async for answer in exchange.astream(config, **kwargs):
                yield answer
        except (GeneratorExit, asyncio.CancelledError):
            exchange.store()  # not in a thread: a generator that is being closed may not await
            raise
        await asyncio.to_thread(exchange.store)


def _question(given: dict[str, Any]) -> HumanMessage:
    text = given.get("text", "").strip()
    if task := given.get("task"):
        text = instruction(parse_task(task), text)
    images = [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in given.get("images", ())]
    if not text:
        raise UserError("the question is empty; write what you want to know")
    return HumanMessage([*images, {"type": "text", "text": text}] if images else text)


def _up_to(versions: Sequence[StoredMessage], number: int) -> list[Any]:
    """The messages that lead to one, and itself."""
    by_number = {stored.number: stored for stored in versions}
    path: list[BaseMessage] = []
    place: int | None = number
    while place is not None and (stored := by_number.get(place)) is not None:
        path.append(stored.message)
        place = stored.parent
    if not path or path[0].type != "human":
        raise UserError(f"the conversation has no question {number}; it may have been deleted")
    return path[::-1]
