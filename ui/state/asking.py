"""What the page asks, of whom, and how: from a person's words and settings to a question under way."""

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import AIMessage

from fourfold.assistant.grounding import Box, family_of, format_box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.registry import SERVED_NAME
from fourfold.prompts.errors import UserError
from fourfold.prompts.plain import plain_instruction, pointed_at
from fourfold.prompts.tasks import Task, instruction, with_tag
from fourfold.ui.state.answering import ModelSettings, PendingTurn, ask
from fourfold.ui.state.endpoint import Served
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import Turn
from fourfold.ui.state.wording import as_made

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


def words_for(task: Task | None, text: str, region: Box | None, model: Served | None = None) -> str:
    """The question as it is sent: its tag, its instruction, its words, and the rectangle it points at.

    To a `model` that was taught neither tags nor such boxes, it is put in plain words.

    Raises:
        UserError: the task needs words or a rectangle.
    """
    text = text.strip()
    tags = model is None or knows_tags(model)
    box = format_box(region) if region is not None and tags else ""
    if task is None or (text and with_tag(task, text) == text):
        if not text:
            raise UserError("Write what you want to know.")
        place = "" if region is None or tags else pointed_at(region.as_tuple())
        return f"{text} {box or place}".strip()
    if task is Task.IDENTIFY and region is None:
        raise UserError("Draw a rectangle on the picture first.")
    if not text and CHIPS[str(task)].button is None:
        raise UserError("Write what to look for." if task is not Task.VQA else "Write what you want to know.")
    if model is not None and not tags:
        family = family_of(model.parent or model.name)
        plain = plain_instruction(
            task, text, family=family.name if family else None, region=region.as_tuple() if region else None
        )
        return plain if region is None or task is Task.IDENTIFY else f"{plain} {pointed_at(region.as_tuple())}"
    if task is Task.IDENTIFY:
        return with_tag(task, f"{text} {box}") if text else instruction(task, box)
    return f"{instruction(task, text)} {box}".strip()


def knows_tags(model: Served) -> bool:
    """Whether it is of MiniGPT-v2's kind: taught tags, boxes in hundredths, and one picture at a time.

    Its name tells, or that our server serves it.
    """
    family = family_of(model.parent or model.name)
    if family is not None:
        return family.name == "minigpt4"
    return model.ours


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


def send(found: Session, words: str, pictures: Sequence[Attachment], written: str | None = None) -> PendingTurn:
    """Ask in the conversation that is shown, or begin one. `written` is what the page shows in place of the words.

    Raises:
        UserError: the endpoint is not there, or the question cannot be kept; what waits for it goes on waiting.
    """
    models = askers(found)
    if found.conversation is None:
        found.conversation = found.history.create(_title(written or words))
    asked = ask(found.history, found.conversation, None, words, pictures, models, written=written)
    found.leave()
    found.pending = []
    return asked


def send_instead(found: Session, turn: Turn, words: str, *, otherwise: bool = False) -> PendingTurn:
    """Ask from a turn on: its question for another answer, or another question in its place.

    What it was stays as an earlier version, with what followed it. `otherwise` is for an answer that differs.

    Raises:
        UserError: the endpoint is not there, or the question cannot be kept.
    """
    assert found.conversation is not None
    models = askers(found, otherwise=otherwise)
    again = turn.asked_in.number if words == turn.words else None
    asked = ask(found.history, found.conversation, turn.position, words, turn.pictures, models, again)
    found.leave()
    return asked


def choose_other(found: Session, turn: Turn) -> None:
    """Go on with the other answer of a turn, each on its side of the page; what was asked after it stays."""
    assert found.conversation is not None and turn.answered_in.number is not None
    figures = turn.figures
    other = figures.pop("other")
    swapped = {name: value for name, value in other.items() if name not in ("text", "error", "first")}
    swapped["other"] = {**figures, "text": turn.said, "first": not other.get("first")}
    answer = AIMessage(other["text"], response_metadata={"fourfold": swapped})
    found.history.replace(found.conversation, turn.answered_in.number, answer)


def askers(found: Session, *, otherwise: bool = False) -> list[ModelSettings]:
    """Who answers, with the settings of now: one, or two where models are compared.

    Raises:
        UserError: the endpoint is not there.
    """
    first = chosen_model(found)
    if found.endpoint is None or first is None:
        raise UserError(found.trouble or "No model is connected yet. Wait a moment, or look under Connection.")
    other = other_model(found)
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
            found.preferences.remember and not otherwise if found.asks_local_server else None,
            dict.fromkeys(found.preferences.looks, True),
            served.eyes if found.preferences.eyes else None,
            # Two models that are compared are both asked, and so is one that is to answer otherwise.
            None if otherwise or other is not None or not found.preferences.remember else found.memory,
        )
        for served in (first, other)
        if served is not None
    ]


def _named(models: Sequence[Served], name: str) -> Served | None:
    return next((served for served in models if served.name == name), models[0] if models else None)


def _length(models: Sequence[Served], served: Served) -> int | None:
    parent = next((other for other in models if other.name == served.parent), None)
    return served.context_length or (parent.context_length if parent else None)


def _title(words: str) -> str:
    """The first words of a question, without its tag and boxes; the task where it has no words of its own."""
    made = as_made(words)
    if made.task is not None and not made.words:
        return CHIPS[made.task].label
    return " ".join(made.words.split())[:60]
