"""The page's one component of its own: words and a picture with coloured boxes, to look at, draw on and correct."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from fourfold.assistant.grounding import PALETTE
from fourfold.assistant.images import Attachment
from fourfold.ui.state.boxes import BoxAnnotation
from fourfold.ui.state.pictures import SHOWN, shown

_HERE = Path(__file__).parent
Mode = Literal["view", "still", "region", "edit"]
_SCRIPTS = ("zoom.js", "save.js", "looking.js", "canvas.js")  # one module, in this order
_SHARP = 3000  # pixels a side of a picture that is looked at from close by, filling the screen, or saved


@dataclass(frozen=True)
class Overlay:
    """What is laid over the picture.

    Attributes:
        heat: rows of a score map, values 0..1; the first row is the top.
        mask: data URI of a picture with transparency, stretched over the whole.
    """

    heat: tuple[tuple[float, ...], ...] = ()
    mask: str | None = None


def canvas(
    picture: Attachment | None,
    *,
    key: str,
    mode: Mode = "view",
    marks: Sequence[BoxAnnotation] = (),
    words: Sequence[dict[str, Any]] = (),
    alt: str = "The picture",
    revision: str = "",
    tall: bool = True,
    wide: int = 260,
    overlay: Overlay | None = None,
    action: str | None = None,
    on_action: Callable[[], None] | None = None,
) -> list[BoxAnnotation]:
    """Show words and a picture with boxes.

    Args:
        picture: what is drawn on; None shows the words only.
        key: of the element in this page.
        mode: "view" to look at, "still" for a picture that a click enlarges, "region" to draw one rectangle, "edit" to
            change boxes and their names.
        marks: the boxes; in the other modes those to begin with.
        words: pieces of text, `{"text": str}` with `"group": int` where boxes belong to them. They are shown as text,
            whatever is in them.
        alt: what the picture is, for those who do not see it.
        revision: a new value makes "region" and "edit" begin again with `marks`.
        tall: whether the picture may take most of the screen's height.
        wide: pixels of a "still" picture's width.
        overlay: what is laid over the picture, under the boxes.
        action: what a button at the rectangle of "region" says.
        on_action: called when it is pressed, before the page's script runs.

    Returns:
        The boxes as the person left them; in "view" mode those given.
    """
    sharp = f"{key}-sharp"
    wanted = picture is not None and st.session_state.get(sharp) == picture.sha256
    image = None if picture is None else shown(picture, _SHARP) if wanted else shown(picture)
    whole = image is not None and (wanted or max(image.width, image.height) <= SHOWN)
    data = {
        "mode": mode,
        "image": (
            None if image is None else {"uri": image.uri, "width": image.width, "height": image.height, "sharp": whole}
        ),
        "alt": alt,
        "marks": [
            {"box": list(m.box.as_tuple()), "label": m.label, "group": m.group, "looked": m.looked, "note": m.note}
            for m in marks
        ],
        "words": list(words),
        "palette": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE],
        "revision": revision,
        "tall": tall,
        "wide": wide,
        "heat": [list(row) for row in overlay.heat] if overlay else [],
        "mask": overlay.mask if overlay else None,
        "action": action,
    }

    def sharpen() -> None:
        st.session_state[sharp] = picture.sha256 if picture is not None else None

    changed = _component(
        key=key,
        data=data,
        on_boxes_change=_nothing,
        on_sharper_change=sharpen,
        on_acted_change=on_action or _nothing,
    )
    if mode in ("view", "still"):
        return list(marks)
    drawn = changed.get("boxes")
    if not isinstance(drawn, dict) or drawn.get("revision") != revision:
        return list(marks)
    return [mark for entry in drawn.get("boxes", []) if (mark := BoxAnnotation.read(entry)) is not None]


def _nothing() -> None:
    return None


# Read here because Streamlit finds the files only of components that it was told of at build time.
_component: Any = st.components.v2.component(
    "fourfold.canvas",
    html='<div class="canvas"></div>',
    css=(_HERE / "canvas.css").read_text("utf-8"),
    js="\n".join((_HERE / name).read_text("utf-8") for name in _SCRIPTS),
)
