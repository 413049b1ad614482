"""What a person thinks of an answer, as a record of the store."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fourfold.assistant.chat.look_again import subject
from fourfold.assistant.grounding import parse
from fourfold.assistant.refine.record import CorrectedBox, Correction, Verdict
from fourfold.ui.state.boxes import BoxAnnotation, annotate
from fourfold.ui.state.turns import Turn


def record(
    turns: Sequence[Turn],
    turn: Turn,
    *,
    verdict: Verdict,
    consent: bool,
    remember: bool = True,
    words: str | None = None,
    marks: Sequence[BoxAnnotation] | None = None,
) -> Correction:
    """A correction of the answer of `turn`.

    Args:
        turns: the whole conversation.
        turn: with an answer and a picture.
        verdict: "up" or "down".
        consent: whether an adapter may be trained with it.
        remember: whether the same question about the same picture is answered so.
        words: what the answer should have said, without boxes; None where its words were right.
        marks: where things are, all of them; None where the boxes were right or there are none.

    Raises:
        ValueError: the turn has no answer or no picture.
    """
    if turn.answer is None or turn.picture is None:
        raise ValueError("only an answer about a picture can be corrected")
    messages: list[dict[str, Any]] = []
    for earlier in turns:
        if earlier.position > turn.position:
            break
        # Placeholders stand for the record's one picture; what was asked about others is context in words only.
        images = [{"type": "image"} for picture in earlier.pictures if picture == turn.picture][-1:]
        content: Any = [*images, {"type": "text", "text": earlier.words}] if images else earlier.words
        messages.append({"role": "user", "content": content})
        if earlier is not turn and earlier.answer is not None:
            messages.append({"role": "assistant", "content": earlier.said_in_tokens})
    figures = turn.figures
    adapts = figures.get("adapts")
    boxes = None if marks is None else tuple(CorrectedBox(mark.label, mark.box) for mark in marks)
    return Correction(
        messages=tuple(_alternating(messages)),
        rejected=turn.rejected,
        chosen=words,
        boxes=boxes,
        verdict=verdict,
        consent=consent,
        remember=remember,
        model=adapts or figures.get("model") or "",
        adapter=figures.get("model") if adapts else None,
        parameters=figures.get("parameters") or {},
    )


def changes(
    rejected: str, words: str, marks: Sequence[BoxAnnotation], question: str
) -> tuple[str | None, list[BoxAnnotation] | None]:
    """What of an answer was corrected: its words and its boxes, None for each that was not.

    Boxes go along with corrected words where the answer has some, because the corrected answer needs them again.

    Args:
        rejected: what the model said, its boxes as `Turn.rejected` has them.
        words, marks: what a person made of it.
        question: that it answers.
    """
    answer = parse(rejected)
    _, before = annotate(answer, question)
    new_words = words.strip() if words.strip() and words.strip() != answer.plain.strip() else None
    moved = [(mark.label, mark.box) for mark in marks] != [(mark.label, mark.box) for mark in before]
    return new_words, list(marks) if moved or (new_words is not None and marks) else None


def named(marks: Sequence[BoxAnnotation], question: str) -> list[BoxAnnotation]:
    """The same boxes; one without a name is called what the question asks for, where no other is called otherwise."""
    thing = subject(question)
    names = {mark.label for mark in marks if mark.label}
    if not thing or names - {thing}:
        return list(marks)
    return [mark if mark.label else replace(mark, label=thing) for mark in marks]


Said = tuple[str, str, str]
"""SHA-256 of a picture, a question about it, and the answer."""


def said(turn: Turn) -> Said | None:
    """By what the answer of a turn is found in `Session.judged`; None where there is no answer about a picture."""
    if turn.answer is None or turn.picture is None:
        return None
    return turn.picture.sha256, turn.words, turn.rejected


def _alternating(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without questions that were never answered, but with the pictures that they brought."""
    kept: list[dict[str, Any]] = []
    for message in messages:
        if kept and kept[-1]["role"] == message["role"] == "user":
            earlier = kept.pop()["content"]
            images = [part for part in earlier if part["type"] == "image"] if isinstance(earlier, list) else []
            if images and isinstance(message["content"], str):
                message = {**message, "content": [*images, {"type": "text", "text": message["content"]}]}
        kept.append(message)
    return kept
