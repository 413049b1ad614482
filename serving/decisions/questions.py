"""Questions with a closed set of answers, and how they are put to the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fourfold.assistant.checkpoints.calibration import DecisionKind
from fourfold.prompts.tasks import Task, with_tag
from fourfold.serving.engine.scoring import Question

Value = str | bool


@dataclass(frozen=True)
class Option:
    """A possible answer.

    Attributes:
        value: as the asker writes it.
        description: when it applies; "" for none.
    """

    value: Value
    description: str = ""

    @property
    def text(self) -> str:
        """What the model would write."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        return self.value


YES_NO = (Option(True), Option(False))


@dataclass(frozen=True)
class DecisionQuestion:
    """A predicate is true or false, a choice is one of several, a score is one of several ordered levels.

    Attributes:
        kind: of these three.
        content: instructions, as parts of a message of `serving.engine.requests.Request`.
        options: the answers; of a score from the lowest to the highest level.
        name: the asker's own, to find the answer by.
    """

    kind: DecisionKind
    content: tuple[dict[str, Any], ...]
    options: tuple[Option, ...] = YES_NO
    name: str | None = None

    @property
    def words(self) -> str:
        """Its text."""
        return "\n".join(part["text"] for part in self.content if part["type"] == "text").strip()

    def ranked(self, *, image: bool) -> Question:
        """As the model is asked: what it was taught questions about images with, and the answers it would write.

        A statement is asked about. Options are told where they are described; else they stand in no prompt, since
        naming them made the answers of the default model no better.

        Args:
            image: whether the context shows one; without any in context and question, no task is tagged.
        """
        words = self.words
        if self.kind == "predicate" and not words.endswith("?"):
            words = f"is this true? {words}"
        if image or any(part["type"] == "image" for part in self.content):
            words = with_tag(Task.VQA, words)
        told = [f"{option.text}: {option.description}" for option in self.options if option.description]
        images = [part for part in self.content if part["type"] == "image"]
        text = {"type": "text", "text": "\n".join([words, *told])}
        return Question([*images, text], tuple(option.text for option in self.options))


def predicate(words: str, name: str | None = None) -> DecisionQuestion:
    """Whether a statement holds, or what a question that is answered by yes or no asks."""
    return DecisionQuestion("predicate", ({"type": "text", "text": words},), name=name)


def choice(words: str, values: Sequence[Value], name: str | None = None) -> DecisionQuestion:
    """Which of the values it is."""
    return DecisionQuestion("choice", ({"type": "text", "text": words},), tuple(map(Option, values)), name)


def score(words: str, levels: Sequence[str], name: str | None = None) -> DecisionQuestion:
    """Which of the levels it is, from the lowest to the highest."""
    return DecisionQuestion("score", ({"type": "text", "text": words},), tuple(map(Option, levels)), name)
