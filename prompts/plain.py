"""The six tasks in plain words, for models that were not taught MiniGPT-v2's tags."""

import re
from collections.abc import Iterator

from fourfold.prompts.errors import UserError
from fourfold.prompts.pointing import POINTING
from fourfold.prompts.tasks import Task

_FORMS = {
    Task.VQA: "{text} Answer in a word or two.",
    Task.REFER: "Where is {text} in the picture? Answer with its bounding box.",
    Task.DETECTION: "Find every {text} in the picture. Answer with a bounding box for each.",
}
_ALONE = {
    Task.CAPTION: "Describe the picture in one or two sentences.",
    Task.GROUNDING: "Describe the picture, and give the bounding box of each thing that you mention.",
}


def plain_instruction(
    task: Task,
    text: str = "",
    *,
    family: str | None = None,
    region: tuple[float, float, float, float] | None = None,
) -> str:
    """A whole question without a tag.

    Args:
        task: what is asked for.
        text: the question (vqa), the phrase (refer) or the kind of thing (detection). The others need none; given one,
            they ask that instead.
        family: the model's, where its name tells: it is asked for boxes in the words that it was taught.
        region: x1, y1, x2, y2 in 0..1, what identify asks about.

    Raises:
        UserError: the task needs a text or a region and there is none.
    """
    text = text.strip()
    if task in _ALONE:
        return text or _ALONE[task]
    if task is Task.IDENTIFY:
        if region is None:
            raise UserError(f"{task} needs a region of the picture")
        return f"{text or 'What is this?'} {pointed_at(region)}"
    if not text:
        raise UserError(f"{task} needs {'a question' if task is Task.VQA else 'the name of a thing'}")
    forms = POINTING.get(family or "", {})
    if task is Task.REFER and "refcoco" in forms:
        return forms["refcoco"].format(sent=text)
    if task is Task.DETECTION and "detection" in forms:
        return forms["detection"].format(label=text)
    return _FORMS[task].format(text=text)


def pointed_at(region: tuple[float, float, float, float]) -> str:
    """Where a region is, in words that any model reads."""
    x1, y1, x2, y2 = (round(100 * side) for side in region)
    return (
        f"It is about the part of the picture between {x1} and {x2} percent of its width from the left, and between "
        f"{y1} and {y2} percent of its height from the top."
    )


def read_plain(words: str) -> tuple[Task | None, str, tuple[float, float, float, float] | None]:
    """What a question in plain words asks for: the task (None where it is nobody's form), its text, its region."""
    region = None
    if found := _POINTED.search(words):
        x1, x2, y1, y2 = (int(side) / 100 for side in found.groups())
        region, words = (x1, y1, x2, y2), words[: found.start()].rstrip()
        if words == "What is this?":
            return Task.IDENTIFY, "", region
    for task, alone in _ALONE.items():
        if words == alone:
            return task, "", region
    longest_first = sorted(_every_form(), key=lambda form: -form[1].index("{}"))  # "every {label}" before "{sent}"
    for task, form in longest_first:
        before, _, after = form.partition("{}")
        if words.startswith(before) and words.endswith(after) and len(words) > len(before) + len(after):
            return task, words[len(before) : len(words) - len(after)], region
    return None, words, region


_POINTED = re.compile(
    r"It is about the part of the picture between (\d+) and (\d+) percent of its width from the left, and between "
    r"(\d+) and (\d+) percent of its height from the top\.\Z"
)


def _every_form() -> Iterator[tuple[Task, str]]:
    """Each task's forms, with `{}` for the text."""
    for task, form in _FORMS.items():
        yield task, form.format(text="{}")
    for forms in POINTING.values():
        for name, task, slot in (("refcoco", Task.REFER, "sent"), ("detection", Task.DETECTION, "label")):
            if name in forms and forms[name].format(**{slot: ""}).strip():
                yield task, forms[name].format(**{slot: "{}"})
