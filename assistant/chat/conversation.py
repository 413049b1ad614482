"""Chatting about images as LangChain runnables, against any OpenAI-compatible endpoint."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, message_chunk_to_message
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from fourfold.assistant.chat.answer_parser import AnswerParser, GrowingAnswer
from fourfold.assistant.chat.context_window import trim
from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.data_uri import to_data_uri
from fourfold.assistant.grounding import Grounded, parse
from fourfold.prompts.errors import UserError
from fourfold.prompts.langchain import conversation_prompt, question_prompt
from fourfold.prompts.tasks import Task, instruction, parse_task


def connect(base_url: str, model: str | None = None, api_key: str | None = None, **options: Any) -> ChatOpenAI:
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
    return ChatOpenAI(base_url=base_url, api_key=SecretStr(key), model=model, **{"temperature": 0} | options)


def question_chain(model: Runnable, task: Task | None = None) -> Runnable[dict[str, Any], Grounded]:
    """One question about one image: a runnable over `{"image": path, URL, bytes or PIL image, "text": str}`.

    Args:
        model: a LangChain chat model, as `connect` makes it.
        task: what to ask for; `text` is then the question, phrase or box of that task. None sends `text` as it is.

    Returns:
        prompt | model | parser; `invoke` gives the answer with its boxes, `stream` the answer so far.
    """

    def fill(given: dict[str, Any]) -> dict[str, str]:
        text = given.get("text", "")
        return {"image_url": to_data_uri(given["image"]), "text": instruction(task, text) if task else text}

    return RunnableLambda(fill, name="image to URL") | question_prompt() | model | AnswerParser()


class Conversation(Runnable[dict[str, Any], Grounded]):
    """A chat that remembers: a runnable over one question of a stored conversation.

    Its input is `{"conversation": id, "text": str}` with, optionally, `"images"` (a list of paths, URLs, bytes or PIL
    images) and `"task"` (a task or its name). Its output is the answer with its boxes; `stream` gives the answer so
    far. Question and answer are stored together once the answer is complete. A stream that its reader leaves early
    stores what had arrived, with `finish_reason` "cancelled"; an endpoint that fails stores nothing and its error
    (`openai.OpenAIError`) goes through.

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

    def invoke(self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> Grounded:
        """Ask and wait for the whole answer."""
        question, messages = self._prepare(input)
        answer = self.model.invoke(messages, config, **kwargs)
        self._keep(input, question, answer)
        return parse(str(answer.text))

    async def ainvoke(self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> Grounded:
        """`invoke` for asyncio; the history is read and written in a thread."""
        question, messages = await asyncio.to_thread(self._prepare, input)
        answer = await self.model.ainvoke(messages, config, **kwargs)
        await asyncio.to_thread(self._keep, input, question, answer)
        return parse(str(answer.text))

    def stream(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> Iterator[Grounded]:
        """The answer so far, again and again; the last one is the whole."""
        question, messages = self._prepare(input)
        growing = GrowingAnswer()
        try:
            for chunk in self.model.stream(messages, config, **kwargs):
                if answer := growing.add(chunk):
                    yield answer
        except GeneratorExit:
            self._keep(input, question, _message(growing), cancelled=True)
            raise
        self._keep(input, question, _message(growing))
        if answer := growing.end():
            yield answer

    async def astream(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> AsyncIterator[Grounded]:
        """`stream` for asyncio."""
        question, messages = await asyncio.to_thread(self._prepare, input)
        growing = GrowingAnswer()
        try:
            async for chunk in self.model.astream(messages, config, **kwargs):
                if answer := growing.add(chunk):
                    yield answer
                # Chunks that have arrived already come without a pause, and others (a cancellation) want their turn.
                await asyncio.sleep(0)
        except (GeneratorExit, asyncio.CancelledError):
            # Not in a thread: a generator that is being closed may not await.
            self._keep(input, question, _message(growing), cancelled=True)
            raise
        await asyncio.to_thread(self._keep, input, question, _message(growing))
        if answer := growing.end():
            yield answer

    def _prepare(self, given: dict[str, Any]) -> tuple[HumanMessage, list[BaseMessage]]:
        """The new question, and everything that the model gets to read."""
        text = given.get("text", "").strip()
        if task := given.get("task"):
            text = instruction(parse_task(task), text)
        images = [{"type": "image_url", "image_url": {"url": to_data_uri(i)}} for i in given.get("images", ())]
        if not text:
            raise UserError("the question is empty; write what you want to know")
        question = HumanMessage([*images, {"type": "text", "text": text}] if images else text)
        said = self.history.messages(given["conversation"])
        messages = self._prompt.invoke({"history": said, "question": [question]}).to_messages()
        return question, trim(messages, self._limit, self._image_tokens)

    def _keep(
        self, given: dict[str, Any], question: HumanMessage, answer: BaseMessage | None, cancelled: bool = False
    ) -> None:
        if answer is None or (cancelled and not answer.text):
            return
        whole = message_chunk_to_message(answer)  # what is no chunk passes through
        kept = AIMessage(whole.content, response_metadata=whole.response_metadata)
        if cancelled:
            kept.response_metadata = {**kept.response_metadata, "finish_reason": "cancelled"}
        self.history.append(given["conversation"], [question, kept])


def _message(growing: GrowingAnswer) -> Any:
    """The message that the pieces make together; None where nothing came."""
    if not growing.pieces:
        return None
    first, *others = growing.pieces
    return first + others if others else first  # type: ignore[operator]
