"""What the page asks, of whom, and how: from a person's words and settings to a question under way."""

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import AIMessage

from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.registry import SERVED_NAME
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import INSTRUCTIONS, Task, instruction, with_tag
from fourfold.ui.state.answering import ModelSettings, PendingTurn, ask, drop
from fourfold.ui.state.endpoint import Served
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import Turn, split_tag

_OTHERWISE = 0.7
"""Temperature of asking the same question again: at 0 the answer would be the same."""


@dataclass(frozen=True)
class Chip:
    """A task as the page offers it."""

    label: str
    icon: str
    hint: str  # what the input says while the chip is chosen
    button: str | None = None  # of asking without any words; None where words are needed


ASK = "ask"
"""The chip that adds no tag."""

CHIPS: dict[str, Chip] = {
    ASK: Chip("Ask", ":material/chat:", "Ask about the picture"),
    Task.CAPTION: Chip("Describe", ":material/subject:", "Ask for a description", "Describe the picture"),
    Task.GROUNDING: Chip(
        "Describe and point", ":material/ads_click:", "Ask for a description with places", "Describe it and point"
    ),
    Task.REFER: Chip("Find", ":material/my_location:", "Name one thing: the red ball"),
    Task.DETECTION: Chip("Find all", ":material/select_all:", "Name a kind of thing: ball"),
    Task.IDENTIFY: Chip("What is here?", ":material/crop_free:", "Draw a rectangle on the picture", "What is this?"),
    Task.VQA: Chip("Short answer", ":material/short_text:", "Ask for an answer in a word or two"),
}


def chip_task(name: str) -> Task | None:
    return None if name == ASK else Task(name)


def words_for(task: Task | None, text: str, region: Box | None) -> str:
    """The question as it is sent: its tag, its instruction, its words, and the rectangle it points at.

    Raises:
        UserError: the task needs words or a rectangle.
    """
    text = text.strip()
    box = format_box(region) if region is not None else ""
    if task is None or (text and with_tag(task, text) == text):
        if not text:
            raise UserError("Write what you want to know.")
        return f"{text} {box}".strip()
    if task is Task.IDENTIFY:
        if not box:
            raise UserError("Draw a rectangle on the picture first.")
        return with_tag(task, f"{text} {box}") if text else instruction(task, box)
    if not text and CHIPS[str(task)].button is None:
        raise UserError("Write what to look for." if task is not Task.VQA else "Write what you want to know.")
    return f"{instruction(task, text)} {box}".strip()


def chosen_model(found: Session) -> Served | None:
    """The model that answers; None where the endpoint serves none. What was learnt answers unless told otherwise."""
    if not found.preferences.model and (refined := [m for m in found.models if m.name == SERVED_NAME]):
        return refined[0]
    return _named(found.models, found.preferences.model)


def other_model(found: Session) -> Served | None:
    """The model that answers beside it; None where none is to."""
    first = chosen_model(found)
    if not found.preferences.compare or first is None:
        return None
    rest = [served for served in found.models if served.name != first.name]
    return _named(rest, found.preferences.other)


def send(found: Session, words: str, pictures: Sequence[Attachment]) -> PendingTurn:
    """Ask in the conversation that is shown, or begin one."""
    models = askers(found)
    if found.conversation is None:
        found.conversation = found.history.create(_title(words))
    keep = found.history.info(found.conversation).messages
    found.leave()
    found.pending = []
    return ask(found.history, found.conversation, keep, words, pictures, models)


def send_instead(found: Session, turn: Turn, words: str, *, otherwise: bool = False) -> PendingTurn:
    """Ask again from a turn on, `otherwise` for another answer; what followed it is replaced when that is there."""
    assert found.conversation is not None
    found.leave()
    models = askers(found, otherwise=otherwise)
    return ask(found.history, found.conversation, turn.position, words, turn.pictures, models)


def retry(found: Session, failed: PendingTurn) -> PendingTurn:
    """Ask a question again that failed, with the settings of now."""
    drop(failed.conversation)
    return ask(failed.history, failed.conversation, failed.keep, failed.words, failed.pictures, askers(found))


def choose_other(found: Session, turn: Turn) -> None:
    """Swap the two answers of a turn; what was asked after it stays."""
    assert found.conversation is not None
    figures = turn.figures
    other = figures.pop("other")
    swapped = {name: value for name, value in other.items() if name not in ("text", "error")}
    swapped["other"] = {**figures, "text": turn.said}
    after = found.history.messages(found.conversation)[turn.position + 2 :]
    answer = AIMessage(other["text"], response_metadata={"fourfold": swapped})
    found.history.append(found.conversation, [turn.question, answer, *after], turn.position)


def askers(found: Session, *, otherwise: bool = False) -> list[ModelSettings]:
    """Who answers, with the settings of now: one, or two where models are compared.

    Raises:
        UserError: the endpoint is not there.
    """
    first = chosen_model(found)
    if found.endpoint is None or first is None:
        raise UserError(found.trouble or "No model is connected yet. Wait a moment, or look under Connection.")
    parameters = found.preferences.parameters
    if otherwise:
        parameters["temperature"] = max(found.preferences.temperature, _OTHERWISE)
        parameters["seed"] = None
    return [
        ModelSettings(
            found.endpoint,
            served.name,
            served.parent,
            _length(found.models, served),
            found.preferences.system.strip(),
            parameters,
            found.preferences.remember if found.asks_local_server else None,
            dict.fromkeys(found.preferences.looks, True),
            served.eyes if found.preferences.eyes else None,
        )
        for served in (first, other_model(found))
        if served is not None
    ]


def _named(models: Sequence[Served], name: str) -> Served | None:
    return next((served for served in models if served.name == name), models[0] if models else None)


def _length(models: Sequence[Served], served: Served) -> int | None:
    parent = next((other for other in models if other.name == served.parent), None)
    return served.context_length or (parent.context_length if parent else None)


def _title(words: str) -> str:
    """The first words of a question, without its tag and boxes; the task where it has no words of its own."""
    task, rest = split_tag(words)
    if task in (Task.CAPTION, Task.GROUNDING) and words == instruction(task):
        return CHIPS[task].label
    if task is Task.REFER:
        rest = rest.removeprefix(INSTRUCTIONS[task][0].partition("{")[0])
    return " ".join(parse(rest).plain.split())[:60]
