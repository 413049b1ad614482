"""A stored conversation as the page shows it: questions with their answers and the picture each is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from fourfold.assistant.data_uri import to_data_uri
from fourfold.assistant.grounding import Box, parse
from fourfold.prompts.tasks import Task
from fourfold.ui.state.answering import pictures_of, text_of


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    Attributes:
        position: of the question among the conversation's messages.
        question, answer: the messages; None for an answer that is not there yet.
        pictures: those that came with the question.
        picture: the one that the answer is about: the latest one up to the question; None where there is none.
    """

    position: int
    question: BaseMessage
    answer: BaseMessage | None
    pictures: tuple[bytes, ...]
    picture: bytes | None

    @property
    def words(self) -> str:
        """The question's text, with its tag."""
        return text_of(self.question)

    @property
    def figures(self) -> dict[str, Any]:
        """What was kept beside the answer: model, parameters, tokens, times; {} for an answer from elsewhere."""
        if not isinstance(self.answer, AIMessage):
            return {}
        return dict(self.answer.response_metadata.get("fourfold") or {})


def turns_of(messages: Sequence[BaseMessage]) -> list[Turn]:
    """The turns of a conversation, in order."""
    found: list[Turn] = []
    picture: bytes | None = None
    for position, message in enumerate(messages):
        if message.type != "human":
            continue
        pictures = tuple(pictures_of(message))
        picture = pictures[-1] if pictures else picture
        answer = messages[position + 1] if position + 1 < len(messages) else None
        found.append(Turn(position, message, answer if answer and answer.type == "ai" else None, pictures, picture))
    return found


def question_message(words: str, pictures: Sequence[bytes]) -> HumanMessage:
    """A question as it is sent and stored: pictures first, then the words."""
    if not pictures:
        return HumanMessage(words)
    images = [{"type": "image_url", "image_url": {"url": to_data_uri(data)}} for data in pictures]
    return HumanMessage([*images, {"type": "text", "text": words}])


def split_tag(words: str) -> tuple[Task | None, str]:
    """The task that a question's tag names, and the rest of the question."""
    stripped = words.lstrip()
    for task in Task:
        if stripped.startswith(task.tag):
            return task, stripped[len(task.tag) :].lstrip()
    return None, words


def region_of(words: str) -> Box | None:
    """The rectangle that a question points at: the first box in it."""
    phrases = parse(words).phrases
    return phrases[0].boxes[0] if phrases else None
