"""The six tasks of MiniGPT-v2: their tags and the ways of asking for them."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from fourfold.prompts.errors import UserError


class Task(StrEnum):
    """What a question asks for; its tag stands at the start of the question and is part of the text."""

    VQA = "vqa"
    CAPTION = "caption"
    REFER = "refer"
    GROUNDING = "grounding"
    DETECTION = "detection"
    IDENTIFY = "identify"

    @property
    def tag(self) -> str:
        """The tag as the model reads it, `[vqa]`."""
        return f"[{self.value}]"


# The counts are those of the original; the words are ours except where a benchmark's prompt is the canonical form.
# `{text}` takes a question or a phrase, `{box}` a box as `assistant.grounding.format_box` writes it.
INSTRUCTIONS: Mapping[Task, tuple[str, ...]] = MappingProxyType(
    {
        Task.VQA: (
            "{text}",
            "Based on the image, respond to this question with a short answer: {text}",
        ),
        Task.CAPTION: (
            "describe this image briefly",
            "what is happening in this image?",
            "write one sentence about this picture",
            "give a short caption for this image",
            "say in a few words what you see",
            "what does this picture show?",
            "sum up this photo in one sentence",
            "tell me what is in this image",
            "provide a brief account of this picture",
            "how would you caption this photo?",
            "state the main content of this image",
            "put this scene into words, shortly",
            "what can be seen here?",
            "describe the scene in one line",
            "a short description of this image, please",
            "explain in one sentence what this photo is about",
            "name what matters in this picture in a single sentence",
        ),
        Task.REFER: (
            "give me the location of {text}",
            "where is {text}?",
            "find {text} in this image",
            "show me where {text} is",
            "point to {text}",
            "in which place of the picture is {text}?",
            "locate {text}",
        ),
        Task.GROUNDING: (
            "please describe this image in details",
            "describe this picture and say where each thing is",
            "tell me what is in this image, with the place of every object",
            "give a detailed caption and locate what you mention",
        ),
        Task.DETECTION: ("{text}",),
        Task.IDENTIFY: (
            "what object is in this location {box}",
            "what is at {box}?",
            "name the thing inside {box}",
            "what does the region {box} hold?",
            "tell me what you see in {box}",
            "which object fills {box}?",
            "describe what is within {box}",
        ),
    }
)

_TAGS = tuple(task.tag for task in Task)


def task_of(question: str) -> Task | None:
    """The task whose tag a question begins with; None for a question as people type it."""
    return next((task for task in Task if question.lstrip().startswith(task.tag)), None)


def parse_task(name: str) -> Task:
    """The task called `name`, with or without the brackets of its tag.

    Raises:
        UserError: there is no such task; the message lists those there are.
    """
    try:
        return Task(name.strip().strip("[]").lower())
    except ValueError:
        raise UserError(f"no task is called {name!r}; there are: {', '.join(Task)}") from None


def instruction(task: Task, text: str = "", *, index: int = 0) -> str:
    """A whole question: the task's tag and its instruction `index` with `text` in its slot.

    Args:
        task: what is asked for.
        text: the question (vqa), the phrase (refer), the phrase or caption (detection) or the formatted box
            (identify). Caption and grounding need none; given one, they ask that instead of the pool's instruction.
        index: 0 is the canonical form, used at inference; training draws the others too. Counted modulo the pool.

    Raises:
        UserError: the task needs a text and there is none.
    """
    form = INSTRUCTIONS[task][index % len(INSTRUCTIONS[task])]
    text = text.strip()
    if "{" not in form:
        return f"{task.tag} {text or form}"
    if not text:
        needed = {Task.VQA: "a question", Task.IDENTIFY: "a box such as {<10><20><50><60>}"}.get(task, "a phrase")
        raise UserError(f"{task.tag} needs {needed}")
    return f"{task.tag} {form.format(text=text, box=text)}"


def with_tag(task: Task, text: str) -> str:
    """`text` with the task's tag before it; a text that starts with any task's tag is left alone."""
    if text.lstrip().startswith(_TAGS):
        return text
    return f"{task.tag} {text.lstrip()}".rstrip()
