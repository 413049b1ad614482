"""What a correction says that the answer should have been, in the format of the answer that it corrects."""

import re
from collections.abc import Sequence
from html import unescape
from itertools import pairwise

from fourfold.assistant.grounding import Grounded, format_box, format_phrase, parse
from fourfold.assistant.refine.questions import asked_phrase
from fourfold.assistant.refine.record import CorrectedBox, Correction
from fourfold.assistant.training.data.photo_tasks import ABSENT
from fourfold.prompts.tasks import Task, task_of

# What the model reads as control, as its chat template knows it. An answer that is learnt must not hold any.
_CONTROL = re.compile(r"<\|[a-z_]+\|>|<ImageHere>|</?s>|\[/?INST\]", re.IGNORECASE)
_NAMING = 5  # words that may be a name; more are a sentence
_LEAST_AREA = 1e-4  # of the image: a point or a line is a slip of the hand


class NeedsReview(ValueError):
    """A correction that a person should look at before it is learnt from; the message says why."""


def control_token(text: str) -> str | None:
    """The first control token of a chat template in a text, as it stands there."""
    found = _CONTROL.search(text)
    return found.group() if found else None


def target_of(correction: Correction) -> str | None:
    """The right answer as the model should have written it.

    Text stands as it was given. Corrected boxes are written as the answer would have written them: alone (`[refer]`),
    behind their label (`[detection]`, `none` where there is nothing), or inside the sentence, behind the words that
    they belong to. Where the answer has no boxes ("blue"), corrected boxes are an annotation beside it.

    Returns:
        None where boxes were corrected that the answer has no place for, and no text.

    Raises:
        NeedsReview: text and boxes do not go together, or one of them cannot be meant.
    """
    if correction.verdict == "up":
        return _checked(correction.rejected)
    if correction.boxes is None:
        return None if correction.chosen is None else _checked(correction.chosen)
    if any(marked.box.area < _LEAST_AREA for marked in correction.boxes):
        raise NeedsReview("a corrected box has no area")
    task, said = task_of(correction.question), parse(correction.chosen or correction.rejected)
    boxed = bool(parse(correction.rejected).phrases or said.phrases) or task in (
        Task.REFER,
        Task.GROUNDING,
        Task.DETECTION,
    )
    if not boxed:
        return None if correction.chosen is None else _checked(correction.chosen)
    if not correction.boxes:
        return _checked(correction.chosen) if correction.chosen else ABSENT
    if task is Task.REFER or _only_boxes(said):
        return "<delim>".join(format_box(marked.box) for marked in _from_left(correction.boxes))
    if task is Task.DETECTION or _only_phrases(said):
        return _labelled(correction, said)
    return _in_words(said, correction.boxes)


def corrected_answer(correction: Correction) -> str | None:
    """The right answer as it can be given to people: `target_of`, with every word that the person wrote.

    A model's form may have no place for them (`[refer]` is answered by a box), or they do not go with the boxes.
    None where nothing was said that could stand in place of the answer.
    """
    words = parse(correction.chosen or correction.rejected).plain
    try:
        target = target_of(correction)
        if target is None or correction.chosen is None or words.casefold() in parse(target).plain.casefold():
            return target
    except NeedsReview:
        pass
    boxes = [marked for marked in correction.boxes or () if marked.box.area >= _LEAST_AREA]
    groups: dict[str, list[CorrectedBox]] = {}
    for marked in boxes:
        groups.setdefault((marked.phrase or asked_phrase(correction.question) or "").strip(), []).append(marked)
    told = [words] if correction.chosen or not groups else []
    one_thing = len(groups) == 1 and task_of(correction.question) in (Task.REFER, Task.DETECTION)
    if told and one_thing and len(words.split()) <= _NAMING and not words.endswith((".", "!", "?")):
        told, groups = [], {words: boxes}  # they are its name
    places = [
        format_phrase(phrase, [m.box for m in _from_left(found)]) if phrase else format_box(found[0].box)
        for phrase, found in groups.items()
    ]
    try:
        return _checked(" ".join([*told, *places]))
    except NeedsReview:
        return None


def annotations(correction: Correction) -> list[CorrectedBox]:
    """The corrected boxes that have words: their own, or those that the question asks for."""
    asked = asked_phrase(correction.question)
    named = [(marked.phrase or asked, marked.box) for marked in correction.boxes or ()]
    return [CorrectedBox(phrase.strip(), box) for phrase, box in named if phrase and phrase.strip()]


def _checked(text: str) -> str:
    text = text.strip()
    if not text:
        raise NeedsReview("the right answer is empty")
    if token := control_token(text):
        raise NeedsReview(f"the right answer holds the control token {token}")
    if malformed := parse(text).malformed:
        raise NeedsReview(f"the right answer holds a malformed box, {malformed[0]}")
    return text


def _from_left(boxes: Sequence[CorrectedBox]) -> list[CorrectedBox]:
    return sorted(boxes, key=lambda marked: (marked.box.x1, marked.box.y1))


def _only_boxes(said: Grounded) -> bool:
    return bool(said.phrases) and not said.plain and all(not grounded.phrase for grounded in said.phrases)


def _only_phrases(said: Grounded) -> bool:
    """Whether nothing is written but labels with their boxes."""
    words = " ".join(grounded.phrase or "" for grounded in said.phrases)
    return bool(said.phrases) and re.sub(r"\W", "", words) == re.sub(r"\W", "", said.plain)


def _labelled(correction: Correction, said: Grounded) -> str:
    """Labels with all their boxes, in the order in which they were corrected."""
    asked = asked_phrase(correction.question)
    known = asked or (said.phrases[0].phrase if len(said.phrases) == 1 else None)
    groups: dict[str, list[CorrectedBox]] = {}
    for marked in correction.boxes or ():
        label = marked.phrase or known
        if not label:
            raise NeedsReview("a corrected box has no words, and the answer has several labels")
        groups.setdefault(label.strip(), []).append(marked)
    return " ".join(format_phrase(label, [m.box for m in _from_left(found)]) for label, found in groups.items())


def _in_words(said: Grounded, boxes: Sequence[CorrectedBox]) -> str:
    """The answer's words, each corrected phrase with its boxes behind it."""
    words = unescape(said.plain)
    alone = said.phrases[0].phrase if len(said.phrases) == 1 else None
    groups: dict[str, list[CorrectedBox]] = {}
    for marked in boxes:
        phrase = marked.phrase or alone
        if not phrase:
            raise NeedsReview("a corrected box has no words, and the answer has more than one phrase")
        groups.setdefault(phrase.strip(), []).append(marked)
    spans = []
    for phrase, found in groups.items():
        match = re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", words, re.IGNORECASE)
        if match is None:
            raise NeedsReview(f"the words {phrase!r} of a corrected box are not in the answer")
        spans.append((match.span(), format_phrase(match.group(), [m.box for m in _from_left(found)])))
    spans.sort()
    if any(one[0][1] > other[0][0] for one, other in pairwise(spans)):
        raise NeedsReview("the words of two corrected boxes overlap in the answer")
    for (start, end), text in reversed(spans):
        words = words[:start] + text + words[end:]
    return _checked(words)
