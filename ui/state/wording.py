"""A question as the person made it, read back from what was sent: the chip, the words, the rectangle."""

import re
from typing import NamedTuple

from fourfold.assistant.chat.look_again import subject
from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.refine.questions import asked_phrase
from fourfold.prompts.plain import read_plain
from fourfold.prompts.tasks import INSTRUCTIONS, Task
from fourfold.ui.state.turns import region_of, split_tag

_TAGS = re.compile(r"\[(?:" + "|".join(Task) + r")\]\s*")


def in_words(text: str, question: str = "") -> str:
    """Words of a model, or about one, without tags and markup; boxes without words are named by the question."""
    read = parse(_TAGS.sub("", text))
    if read.plain.strip() or not read.boxes:
        return read.plain
    number = len(read.boxes)
    return f"{subject(question) or 'something'}, {number} {'box' if number == 1 else 'boxes'}"


class Made(NamedTuple):
    """What a person chose, wrote and drew."""

    task: Task | None  # None for a question in words of their own
    words: str  # "" where the chip says it all
    region: Box | None


def as_made(sent: str) -> Made:
    """What `asking.words_for` was given for these words: "[refer] give me the location of the cup" was "the cup"."""
    task, rest = split_tag(sent)
    if task is None:
        task, words, place = read_plain(sent)
        if task is not None or place is not None:
            return Made(task, words, Box(*place) if place is not None else None)
        return Made(None, parse(sent).plain, region_of(sent))
    region, words = region_of(rest), parse(rest).plain.strip()
    if task in (Task.REFER, Task.DETECTION):
        words = asked_phrase(f"{task.tag} {words}") or words
    for form in INSTRUCTIONS[task]:
        before, slot, after = form.partition("{")
        if words == form or (slot == "{" and "box}" in after and words == parse(before).plain.strip()):
            return Made(task, "", region)
    return Made(task, words, region)
