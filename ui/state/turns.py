"""A stored conversation as the page shows it: questions with their answers and the picture each is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from fourfold.assistant.chat.history import image_of
from fourfold.assistant.grounding import Box, Grounded, box_format_of, parse
from fourfold.assistant.images import Attachment
from fourfold.prompts.tasks import Task
from fourfold.ui.state.pictures import decoded


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    position: int  # of the question among the conversation's messages
    question: BaseMessage
    answer: BaseMessage | None  # None where it is not there yet
    pictures: tuple[Attachment, ...]  # those that came with the question
    picture: Attachment | None  # the latest one up to the question, which the answer is about

    @property
    def words(self) -> str:
        return str(self.question.text)

    @property
    def said(self) -> str:
        """The answer's text, with its boxes."""
        return str(self.answer.text) if self.answer is not None else ""

    @property
    def grounded(self) -> Grounded:
        """The answer read in the way of the model that wrote it."""
        return read_answer(self.said, self.figures, self.picture)

    @property
    def figures(self) -> dict[str, Any]:
        """What was kept beside the answer: model, parameters, tokens, times; {} for an answer from elsewhere."""
        if not isinstance(self.answer, AIMessage):
            return {}
        return dict(self.answer.response_metadata.get("fourfold") or {})


def turns_of(messages: Sequence[BaseMessage]) -> list[Turn]:
    found: list[Turn] = []
    picture: Attachment | None = None
    for position, message in enumerate(messages):
        if message.type != "human":
            continue
        pictures = tuple(pictures_of(message))
        picture = pictures[-1] if pictures else picture
        answer = messages[position + 1] if position + 1 < len(messages) else None
        found.append(Turn(position, message, answer if answer and answer.type == "ai" else None, pictures, picture))
    return found


def pictures_of(message: BaseMessage) -> list[Attachment]:
    if isinstance(message.content, str):
        return []
    links = [part["image_url"] for part in message.content if isinstance(part, dict) and part["type"] == "image_url"]
    urls = [link["url"] if isinstance(link, dict) else link for link in links]
    return [_picture(url) for url in urls if url.startswith("data:")]


def read_answer(text: str, figures: dict[str, Any], picture: Attachment | None) -> Grounded:
    """An answer read in the way of its model, which its figures name."""
    box_format = box_format_of(figures.get("adapts") or figures.get("model"))
    size = decoded(picture).size if picture is not None and box_format.needs_size else None
    return parse(text, box_format, size)


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


# The page's script asks again and again for what it shows.
_picture = lru_cache(maxsize=16)(image_of)
