"""Two answers to one question, side by side."""

from typing import Any

import streamlit as st
from langchain_core.messages import AIMessage

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import parse
from fourfold.ui.state.answering import replace_from, text_of
from fourfold.ui.state.turns import Turn
from fourfold.ui.views.answer import figures_line, show_answer, show_looked
from fourfold.ui.views.copying import copy_button
from fourfold.ui.views.markdown import answer_markdown, plain


def show_other(other: dict[str, Any], picture: bytes | None, question: str, *, key: str) -> bool:
    """The answer that stands beside the conversation's own.

    Returns:
        Whether the conversation is to go on with it.
    """
    st.caption(f"**{plain(other.get('model', ''))}**")
    if other.get("text"):
        show_answer(parse(other["text"]), picture, question, key=key)
    if other.get("error"):
        st.error(answer_markdown(other["error"]))
    if other.get("looked"):
        show_looked(other["looked"], picture, question, key=key)
    chosen = False
    with st.container(key=f"other-acts-{key}", horizontal=True, gap="small", vertical_alignment="center"):
        if other.get("text"):
            copy_button(parse(other["text"]).plain, key=f"copy-{key}")
            chosen = st.button("Go on with this answer", icon=":material/check:", key=f"choose-{key}", type="tertiary")
        if line := figures_line(other):
            st.caption(line)
    return chosen


def choose_other(history: ChatHistory, conversation: str, turn: Turn) -> None:
    """Swap the two answers of a turn; what was asked after it stays."""
    assert turn.answer is not None
    figures = turn.figures
    other = figures.pop("other")
    text = other.pop("text")
    other["other"] = {**figures, "text": text_of(turn.answer)}
    other.pop("error", None)
    after = history.messages(conversation)[turn.position + 2 :]
    swapped = AIMessage(text, response_metadata={"fourfold": other})
    replace_from(history, conversation, turn.position, [turn.question, swapped, *after])
