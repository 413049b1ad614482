"""What the page asks, of whom, and how: from a person's words and settings to a question under way."""

from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.assistant.refine.registry import SERVED_NAME
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import INSTRUCTIONS, Task, instruction, with_tag
from fourfold.ui.state.answering import Asked, BudgetedClient, ask, drop
from fourfold.ui.state.endpoint import Served
from fourfold.ui.state.session import State
from fourfold.ui.state.turns import Turn, question_message, split_tag

_OTHERWISE = 0.7
"""Temperature of asking the same question again: at 0 the answer would be the same."""


@dataclass(frozen=True)
class Chip:
    """A task as the page offers it.

    Attributes:
        label: on the chip.
        icon: Streamlit's name of it.
        hint: what the input says while the chip is chosen.
        button: of asking without any words; None where words are needed.
    """

    label: str
    icon: str
    hint: str
    button: str | None = None


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
    """The task of a chip."""
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


def chosen_model(found: State) -> Served | None:
    """The model that answers; None where the endpoint serves none. What was learnt answers unless told otherwise."""
    if not found.preferences.model and (refined := [m for m in found.models if m.name == SERVED_NAME]):
        return refined[0]
    return _named(found.models, found.preferences.model)


def other_model(found: State) -> Served | None:
    """The model that answers beside it; None where none is to."""
    first = chosen_model(found)
    if not found.preferences.compare or first is None:
        return None
    rest = [served for served in found.models if served.name != first.name]
    return _named(rest, found.preferences.other)


def send(found: State, words: str, pictures: Sequence[bytes]) -> Asked:
    """Ask in the conversation that is shown, or begin one."""
    history = found.history
    if found.conversation is None:
        found.conversation = history.create(_title(words))
    keep = len(history.messages(found.conversation))
    found.leave()
    found.pending = []
    return ask(history, found.conversation, keep, question_message(words, pictures), askers(found))


def send_instead(found: State, turn: Turn, words: str, *, otherwise: bool = False) -> Asked:
    """Ask again from a turn on; what followed it is replaced when the answer is there.

    Args:
        found: the tab.
        turn: whose question is asked again, with its pictures.
        words: the question now.
        otherwise: whether another answer to the same question is wanted.
    """
    assert found.conversation is not None
    found.leave()
    question = question_message(words, turn.pictures)
    return ask(found.history, found.conversation, turn.position, question, askers(found, otherwise=otherwise))


def retry(found: State, asked: Asked) -> Asked:
    """Ask a question again that failed, with the settings of now."""
    drop(asked.conversation)
    return ask(asked.history, asked.conversation, asked.keep, asked.question, askers(found))


def askers(found: State, *, otherwise: bool = False) -> list[BudgetedClient]:
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
    server = found.settings.server
    local = server is not None and found.endpoint.url == server.url
    remember = found.preferences.remember if local else None
    looks = dict.fromkeys(found.preferences.looks, True)
    return [
        BudgetedClient(
            found.endpoint,
            served.name,
            served.parent,
            _length(found.models, served),
            found.preferences.system.strip(),
            parameters,
            remember,
            looks,
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
