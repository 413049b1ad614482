"""A stored conversation as the page shows it: questions with their answers and the picture each is about."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from fourfold.assistant.chat.answer_parser import LONGEST_ANSWER
from fourfold.assistant.chat.message_tree import StoredMessage, path_of
from fourfold.assistant.chat.stored_message import image_of
from fourfold.assistant.grounding import (
    Box,
    BoxFormat,
    Grounded,
    box_format_of,
    family_of,
    find_boxes,
    format_phrase,
    parse,
    parse_so_far,
)
from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, task_of
from fourfold.ui.state.pictures import decoded

WRITTEN = "written"
"""In the `additional_kwargs` of a question: as it would have been sent with the person's own words, if others were."""

_FOREIGN = re.compile(r"<\|?/?(?:box|bbox|ref|object_ref|quad|point|det|loc_?\d|patch_index)", re.IGNORECASE)
"""Tags around boxes, of whatever family."""


@dataclass(frozen=True)
class Versions:
    """The versions of a message, and which one is shown."""

    numbers: tuple[int, ...] = ()  # of all, the earliest first
    at: int = 0  # place of the one that is shown

    @property
    def number(self) -> int | None:
        """Of the one that is shown; None where the message is not of a stored conversation."""
        return self.numbers[self.at] if self.numbers else None


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    position: int  # of the question among the conversation's messages
    question: BaseMessage
    answer: BaseMessage | None  # None where it is not there yet
    pictures: tuple[Attachment, ...]  # those that came with the question
    picture: Attachment | None  # the latest one up to the question, which the answer is about
    declared: Mapping[str, BoxFormat] = field(default_factory=dict)  # how models write boxes, by what the person said
    asked_in: Versions = Versions()
    answered_in: Versions = Versions()

    @property
    def words(self) -> str:
        return str(self.question.text)

    @property
    def written(self) -> str:
        """The question with the words that the person wrote, where it was sent with others."""
        return str(self.question.additional_kwargs.get(WRITTEN) or self.words)

    @property
    def said(self) -> str:
        """The answer's text, with its boxes."""
        return str(self.answer.text) if self.answer is not None else ""

    @property
    def said_in_tokens(self) -> str:
        """The same with its boxes as Fourfold's own models write them, whatever model it was."""
        if box_format_used(self.figures, self.declared) is BoxFormat.TOKENS:
            return self.said
        segments = self.grounded.segments
        return "".join(s if isinstance(s, str) else format_phrase(s.phrase or "", s.boxes) for s in segments)

    @property
    def rejected(self) -> str:
        """What a correction of the answer rejects: what the model said, in a corrected version too."""
        return str(self.figures.get("original") or self.said_in_tokens)

    @property
    def trouble(self) -> dict[str, Any]:
        """Why the question has no answer, or no other one: "error" (a sentence), "stopped", "empty"; {} for nothing."""
        return dict(self.question.response_metadata.get("fourfold") or {})

    @property
    def grounded(self) -> Grounded:
        """The answer read in the way of the model that wrote it."""
        return read_answer(self.said, self.figures, self.picture, self.declared)

    @property
    def figures(self) -> dict[str, Any]:
        """What was kept beside the answer: model, parameters, tokens, times; {} for an answer from elsewhere."""
        if not isinstance(self.answer, AIMessage):
            return {}
        return dict(self.answer.response_metadata.get("fourfold") or {})


def turns_of(messages: Sequence[BaseMessage], declared: Mapping[str, BoxFormat] | None = None) -> list[Turn]:
    """The turns of a stored conversation; `declared` is how models write boxes whose name does not tell."""
    found: list[Turn] = []
    picture: Attachment | None = None
    for position, message in enumerate(messages):
        if message.type != "human":
            continue
        pictures = tuple(pictures_of(message))
        picture = pictures[-1] if pictures else picture
        answer = messages[position + 1] if position + 1 < len(messages) else None
        found.append(
            Turn(
                position, message, answer if answer and answer.type == "ai" else None, pictures, picture, declared or {}
            )
        )
    return found


def stored_turns(versions: Sequence[StoredMessage], declared: Mapping[str, BoxFormat] | None = None) -> list[Turn]:
    """The turns that are shown of a conversation in all its versions, as `ChatHistory.versions` gives them."""
    path = path_of(versions)
    beside: dict[int | None, list[int]] = {}
    for stored in versions:
        beside.setdefault(stored.parent, []).append(stored.number)
    every = [Versions(tuple(beside[s.parent]), beside[s.parent].index(s.number)) for s in path]
    found = turns_of([stored.message for stored in path], declared)
    return [
        replace(
            turn,
            asked_in=every[turn.position],
            answered_in=every[turn.position + 1] if turn.answer is not None else Versions(),
        )
        for turn in found
    ]


def every_turn(versions: Sequence[StoredMessage]) -> list[Turn]:
    """The turns of a conversation with all that was ever said in it, whether it is shown or not."""
    by_number = {stored.number: stored for stored in versions}
    found: list[Turn] = []
    for last in versions:
        path: list[BaseMessage] = []
        place: StoredMessage | None = last
        while place is not None:
            path.append(place.message)
            place = by_number.get(place.parent) if place.parent is not None else None
        if last.message.type == "ai":
            found += turns_of(path[::-1])[-1:]
    return found


def pictures_of(message: BaseMessage) -> list[Attachment]:
    """The pictures of a message; one that cannot be read is left out."""
    if isinstance(message.content, str):
        return []
    links = [part["image_url"] for part in message.content if isinstance(part, dict) and part["type"] == "image_url"]
    urls = [link["url"] if isinstance(link, dict) else link for link in links]
    found: list[Attachment] = []
    for url in urls:
        if url.startswith("data:"):
            with contextlib.suppress(UserError):
                found.append(_picture(url))
    return found


def read_answer(
    text: str,
    figures: Mapping[str, Any],
    picture: Attachment | None,
    declared: Mapping[str, BoxFormat] | None = None,
    *,
    arriving: bool = False,
) -> Grounded:
    """An answer read in the way of its model, which its figures name; boxes are not guessed.

    Where neither the name nor anybody told how the model writes boxes, it is read as Fourfold's own. What is plainly
    written in another way is then left out of the words, and nothing is drawn.
    """
    text = text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]}…"  # of before there was a limit
    read = parse_so_far if arriving else parse
    model = model_of(figures)
    box_format = box_format_used(figures, declared)
    size = decoded(picture).size if picture is not None and box_format.needs_size else None
    if box_format is BoxFormat.TOKENS and not _is_ours(figures) and writes_undeclared_boxes(text, model, declared):
        words = read(text, BoxFormat.THOUSAND).plain
        return Grounded(words, (), (), words)
    return read(text, box_format, size)


def box_format_used(figures: Mapping[str, Any], declared: Mapping[str, BoxFormat] | None = None) -> BoxFormat:
    """How the boxes of an answer are written."""
    if _is_ours(figures):
        return BoxFormat.TOKENS
    model = model_of(figures)
    return (declared or {}).get(model) or box_format_of(model)


def _is_ours(figures: Mapping[str, Any]) -> bool:
    """Whether an answer was written here, by a correction, and not by its model."""
    return bool(figures.get("corrected") or figures.get("remembered"))


def model_of(figures: Mapping[str, Any]) -> str:
    """The model whose way of writing an answer has; an adapter writes as what it adapts."""
    return str(figures.get("adapts") or figures.get("model") or "")


def writes_undeclared_boxes(text: str, model: str, declared: Mapping[str, BoxFormat] | None = None) -> bool:
    """Whether an answer holds boxes of a kind that only its model's maker knows how to read."""
    if family_of(model) is not None or model in (declared or {}):
        return False
    return _FOREIGN.search(text) is not None or any(found.in_json for found in find_boxes(text, BoxFormat.THOUSAND))


def split_tag(words: str) -> tuple[Task | None, str]:
    """The task that a question's tag names, and the rest of the question."""
    task = task_of(words)
    return (None, words) if task is None else (task, words.lstrip().removeprefix(task.tag).lstrip())


def region_of(words: str) -> Box | None:
    """The rectangle that a question points at: the first box in it."""
    phrases = parse(words).phrases
    return phrases[0].boxes[0] if phrases else None


# The page's script asks again and again for what it shows.
_picture = lru_cache(maxsize=16)(image_of)
