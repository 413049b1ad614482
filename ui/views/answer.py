"""An answer on the screen: its words, its boxes on the picture, what looking again found, and what it cost."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from fourfold.assistant.chat.look_again import Step, subject
from fourfold.assistant.grounding import Box, Grounded, parse
from fourfold.ui.canvas import BoxAnnotation, canvas, marks_of, words_of
from fourfold.ui.views.markdown import answer_markdown, plain

_VERDICTS = {
    "supported": (":material/check_circle:", "green", "seen again"),
    "unsupported": (":material/cancel:", "red", "not seen again"),
    "unsure": (":material/help:", "orange", "unsure"),
}


def show_answer(
    answer: Grounded,
    picture: bytes | None,
    question: str,
    *,
    key: str,
    looked_at: Sequence[Box] = (),
    arriving: bool = False,
) -> None:
    """Words and, where the answer has boxes, the picture with them.

    Args:
        answer: as far as it has come.
        picture: that it is about.
        question: names boxes that come without words.
        key: of the elements.
        looked_at: places that were looked at again.
        arriving: whether more is to come.
    """
    marks = named(answer, question)
    places = [BoxAnnotation(box, "looked here", -1, looked=True) for box in looked_at]
    if (marks or places) and picture is not None:
        words = words_of(answer)
        if all(not piece["text"].strip() for piece in words):
            words = []
        canvas(picture, key=f"{key}-canvas", marks=[*marks, *places], words=words, alt=f"Answer to: {question}")
    elif marks:
        canvas(None, key=f"{key}-canvas", marks=marks, words=words_of(answer))
    else:
        st.markdown(answer_markdown(answer.plain) + (" ▍" if arriving else ""))
    if answer.malformed:
        number = len(answer.malformed)
        st.caption(f"{number} {'box' if number == 1 else 'boxes'} of this answer could not be read.")


def named(answer: Grounded, question: str) -> list[BoxAnnotation]:
    """The answer's boxes; those without words are called what the question asks for."""
    marks = marks_of(answer)
    thing = subject(question)
    if thing is None:
        return marks
    return [BoxAnnotation(m.box, m.label or thing, m.group) for m in marks]


def show_steps(steps: Sequence[Step], *, running: bool) -> None:
    """What happens while the model looks again."""
    label = "Looking again…" if running else f"Looked again, {len(steps)} steps"
    with st.status(label, expanded=running, state="running" if running else "complete"):
        for step in steps:
            st.caption(plain(step.text))


def show_looked(looked: dict[str, Any], picture: bytes | None, question: str, *, key: str) -> None:
    """What looking again came to, from what is kept beside the answer."""
    closer = looked.get("closer")
    if closer and closer["changed"]:
        st.caption(":material/zoom_in: Seen from close by")
        show_answer(parse(closer["answer"]), picture, question, key=f"{key}-closer")
    elif looked.get("answer") != looked.get("first"):
        show_answer(parse(looked["answer"]), picture, question, key=f"{key}-again")
    badges = []
    for claim in looked.get("claims", []):
        icon, colour, words = _VERDICTS.get(claim.get("verdict"), _VERDICTS["unsure"])
        badges.append(f":{colour}-badge[{icon} {plain(claim['phrase'])}: {words}]")
    if badges:
        st.markdown(" ".join(badges))
    if looked.get("agreement"):
        st.caption(":material/balance: " + plain(looked["agreement"]))
    steps = [step for step in looked.get("steps", []) if isinstance(step, dict)]
    if steps:
        ending = f"; ended early: {plain(looked['stopped'])}" if looked.get("stopped") else ""
        with st.expander(f"Looked again: {looked['calls']} questions, {looked['seconds']:.1f} s{ending}"):
            for step in steps:
                st.caption(plain(step["text"]))
            boxes = [Box(**step["box"]) for step in steps if step.get("box")]
            if boxes and picture is not None:
                answer = Grounded("", (), (), "")
                show_answer(answer, picture, question, key=f"{key}-steps", looked_at=list(dict.fromkeys(boxes)))


def figures_line(figures: dict[str, Any]) -> str:
    """Model, times and tokens in one line of Markdown; "" where nothing is known."""
    parts = []
    if figures.get("model"):
        parts.append(plain(str(figures["model"])))
    if figures.get("first") is not None:
        parts.append(f"{figures['first']:.1f} s to the first word")
    if figures.get("seconds") is not None:
        parts.append(f"{figures['seconds']:.1f} s")
    if figures.get("completion_tokens") is not None:
        speed = _speed(figures)
        parts.append(f"{figures['completion_tokens']} tokens{speed}, {figures['prompt_tokens']} read")
    if figures.get("finish_reason") == "length":
        parts.append("cut off at its longest")
    if figures.get("finish_reason") == "cancelled":
        parts.append("stopped")
    temperature = (figures.get("parameters") or {}).get("temperature")
    if temperature:
        parts.append(f"temperature {temperature:g}")
    return " · ".join(parts)


def _speed(figures: dict[str, Any]) -> str:
    seconds = figures["seconds"] - figures["first"] if figures.get("first") is not None else 0.0
    tokens = figures["completion_tokens"]
    return f" at {(tokens - 1) / seconds:.0f}/s" if tokens > 5 and seconds > 0.05 else ""
