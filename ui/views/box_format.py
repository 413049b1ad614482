"""How a model writes boxes whose name does not tell: asked once, never guessed."""

import streamlit as st

from fourfold.assistant.grounding import BoxFormat
from fourfold.ui.state.session import Session

_WORDS = {
    BoxFormat.THOUSAND: "0 to 1000 (Qwen3-VL, InternVL, most others)",
    BoxFormat.PIXELS: "pixels of the picture",
    BoxFormat.RESIZED: "pixels, as Qwen2.5-VL counts them",
    BoxFormat.UNIT: "0 to 1",
    BoxFormat.PERCENT: "0 to 100",
    BoxFormat.THOUSAND_YX: "0 to 1000, y first (Gemini)",
    BoxFormat.LOC: "<loc0512> (PaliGemma)",
    BoxFormat.PATCHES: "<patch_index_0044> (Kosmos-2)",
    BoxFormat.TOKENS: "{<8><55><31><89>} (Fourfold)",
}


def ask_box_format(found: Session, model: str, *, key: str) -> None:
    """Have a person say what the numbers of a model's boxes mean; from then on they are drawn."""
    formats = found.preferences.box_formats
    now = formats.get(model)
    chosen = st.selectbox(
        "Boxes of this model are written in",
        list(_WORDS),
        None if now is None else list(_WORDS).index(now),
        format_func=_WORDS.__getitem__,
        placeholder="Say which numbers, and they are drawn",
        key=f"box-format-{key}",
        width=360,
    )
    if chosen is not None and chosen != now:
        formats[model] = chosen
        found.save()
        st.rerun()
