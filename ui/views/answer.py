"""An answer on the screen: its words, its boxes on the picture, what looking again found, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from fourfold.assistant.chat.look_again import Step
from fourfold.assistant.grounding import Box, BoxFormat, Grounded, parse
from fourfold.assistant.images import Attachment
from fourfold.serving.looking.claim import Claim, claims_read
from fourfold.ui.canvas import Overlay, canvas
from fourfold.ui.state.asking import CHIPS
from fourfold.ui.state.boxes import BoxAnnotation, annotate, note
from fourfold.ui.state.turns import read_answer
from fourfold.ui.state.wording import as_made, in_words
from fourfold.ui.views.components import copy_button
from fourfold.ui.views.markdown import answer_markdown, plain

_VERDICTS = {
    "supported": (":material/check_circle:", "green", "seen again"),
    "unsupported": (":material/cancel:", "red", "not seen again"),
    "unsure": (":material/help:", "orange", "unsure"),
}


def show_answer(
    answer: Grounded,
    picture: Attachment | None,
    question: str,
    *,
    key: str,
    looked_at: Sequence[Box] = (),
    claims: Sequence[Claim] = (),
    overlay: Overlay | None = None,
    arriving: bool = False,
) -> None:
    """Words and, where the answer has boxes or was looked at again, the picture that it is about with them.

    Boxes that come without words are named by the question. `claims` tell where what is said comes from; `overlay` is
    laid over the picture.
    """
    words, marks = annotate(answer, question, claims)
    places = [BoxAnnotation(box, "looked here", -1, looked=True) for box in looked_at]
    if (marks or places or overlay) and picture is not None:
        if all(not piece["text"].strip() for piece in words):
            words = []
        alt = f"Answer to: {_as_shown(question)}"
        canvas(picture, key=f"{key}-canvas", marks=[*marks, *places], words=words, alt=alt, overlay=overlay)
    elif marks:
        canvas(None, key=f"{key}-canvas", marks=marks, words=words)
    else:
        st.markdown(answer_markdown(answer.plain) + (" ▍" if arriving else ""))
    if answer.malformed:
        number = len(answer.malformed)
        st.caption(f"{number} {'box' if number == 1 else 'boxes'} of this answer could not be read.")
    if badges := [f":gray-badge[{plain(claim.phrase)}: {note(claim)}]" for claim in claims if claim.box is None]:
        st.markdown(" ".join(badges))


def _as_shown(question: str) -> str:
    """A question as its bubble shows it: "Find: the bottle"."""
    made = as_made(question)
    return ": ".join(filter(None, (CHIPS[made.task].label if made.task is not None else "", made.words)))


def show_thought(thought: str | None, *, running: bool = False) -> None:
    """What a model thought before it answered, folded."""
    if thought:
        with st.expander("Thinking…" if running else "Thought first", icon=":material/psychology:"):
            st.markdown(plain(thought))


def show_steps(steps: Sequence[Step], *, running: bool) -> None:
    label = "Looking again…" if running else f"Looked again, {len(steps)} steps"
    with st.status(label, expanded=running, state="running" if running else "complete"):
        for step in steps:
            st.caption(plain(in_words(step.text)))


def show_looked(looked: dict[str, Any], picture: Attachment | None, question: str, *, key: str) -> None:
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
                st.caption(plain(in_words(step["text"])))
            boxes = [Box(**step["box"]) for step in steps if step.get("box")]
            if boxes and picture is not None:
                answer = Grounded("", (), (), "")
                show_answer(answer, picture, question, key=f"{key}-steps", looked_at=list(dict.fromkeys(boxes)))


def show_other(
    other: dict[str, Any],
    picture: Attachment | None,
    question: str,
    declared: Mapping[str, BoxFormat],
    *,
    key: str,
) -> bool:
    """The answer that stands beside the conversation's own; whether the conversation is to go on with it."""
    st.caption(f"**{plain(other.get('model', ''))}**")
    show_thought(other.get("thought"))
    if not other.get("text") and not other.get("error"):
        st.warning("The model gave an empty answer.", icon=":material/help:")
    if other.get("text"):
        show_answer(
            read_answer(other["text"], other, picture, declared),
            picture,
            question,
            key=key,
            claims=claims_read(other.get("claims")),
        )
    if other.get("error"):
        st.error(plain(other["error"]))
    if other.get("looked"):
        show_looked(other["looked"], picture, question, key=key)
    chosen = False
    with st.container(key=f"other-acts-{key}", horizontal=True, gap="small", vertical_alignment="center"):
        if other.get("text"):
            copy_button(read_answer(other["text"], other, picture, declared).plain, key=f"copy-{key}")
            chosen = st.button("Go on with this answer", icon=":material/check:", key=f"choose-{key}", type="tertiary")
        if line := figures_line(other):
            st.caption(line)
    return chosen


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
    unsaid = "finish_reason" in figures and figures["finish_reason"] is None
    if unsaid and not (figures.get("error") or figures.get("remembered")):
        parts.append("its end was not told, it may be unfinished")
    temperature = (figures.get("parameters") or {}).get("temperature")
    if temperature:
        parts.append(f"temperature {temperature:g}")
    return " · ".join(parts)


def _speed(figures: dict[str, Any]) -> str:
    seconds = figures["seconds"] - figures["first"] if figures.get("first") is not None else 0.0
    tokens = figures["completion_tokens"]
    return f" at {(tokens - 1) / seconds:.0f}/s" if tokens > 5 and seconds > 0.05 else ""
