"""Small things that Streamlit has not: buttons of an icon, of copying and of a folder, the newest words in sight."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from fourfold.ui.views.markdown import plain

_COPY_CSS = """
button { all: unset; display: grid; place-items: center; width: 2rem; height: 2rem; border-radius: 0.5rem;
  cursor: pointer; color: var(--st-text-color); opacity: 0.75; }
button:hover { opacity: 1; color: var(--st-primary-color); }
button:focus-visible { outline: 3px solid var(--st-primary-color); }
svg { width: 1.15rem; height: 1.15rem; fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round;
  stroke-linecap: round; }
"""
_COPY_HTML = """<button type="button" aria-label="Copy the answer" title="Copy">
<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M9 9h11v11H9zM5 15H4V4h11v1"/></svg></button>"""
_COPY_JS = """
export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button");
  const path = parentElement.querySelector("path");
  button.onclick = async () => {
    await navigator.clipboard.writeText(data);
    const before = "M9 9h11v11H9zM5 15H4V4h11v1";
    path.setAttribute("d", "M4 12l5 5L20 6");
    setTimeout(() => path.setAttribute("d", before), 1200);
  };
}
"""
_copy: Any = st.components.v2.component("fourfold.copy", html=_COPY_HTML, css=_COPY_CSS, js=_COPY_JS)


def copy_button(text: str, *, key: str) -> None:
    _copy(key=key, data=text, width="content")


# The input has the focus unless somebody is at another field: it is given back after an answer, because what was
# pressed for it (a chip, Stop) is gone. Not on touch screens, where the keyboard would cover the answer.
# The page scrolls inside Streamlit's main section; pictures load and grow after the element was drawn, hence the
# observer. Scrolling up by hand, or pressing something there, ends the following until the next question: a page that
# grows must not slide away under a box that is being dragged.
_FOLLOW_JS = """
const seen = new Map();
const toInput = (tries) => {
  if (matchMedia("(pointer: coarse)").matches) return;
  const now = document.activeElement;
  if (now?.matches("input, textarea, [contenteditable]") || document.querySelector('[role="dialog"]')) return;
  const input = document.querySelector('[data-testid="stChatInput"] textarea');
  if (input && !input.disabled) input.focus({ preventScroll: true });
  else if (tries) setTimeout(() => toInput(tries - 1), 50);
};
export default function ({ data }) {
  const main = document.querySelector('[data-testid="stMain"]');
  const content = main?.querySelector('[data-testid="stMainBlockContainer"]');
  if (!content) return;
  const { conversation, asked, drawing, busy } = seen.get("last") ?? {};
  seen.set("last", data);
  if (conversation !== data.conversation || busy !== data.busy) toInput(40);
  const opened = data.drawing && !drawing;
  if (conversation === data.conversation && asked === data.asked && !opened) return;
  if (conversation === undefined && !data.busy && !opened) return; // the tab's first
  seen.get("observer")?.disconnect();
  let following = true;
  const away = (event) => {
    if (event.type !== "wheel" || event.deltaY < 0) following = false;
  };
  seen.get("listeners")?.abort();
  const listeners = new AbortController();
  seen.set("listeners", listeners);
  for (const kind of ["wheel", "touchmove", "pointerdown"])
    main.addEventListener(kind, away, { passive: true, signal: listeners.signal });
  const observer = new ResizeObserver(() => {
    if (following) main.scrollTo({ top: main.scrollHeight });
  });
  observer.observe(content);
  seen.set("observer", observer);
  main.scrollTo({ top: main.scrollHeight });
}
"""
_follow: Any = st.components.v2.component("fourfold.scrolling", js=_FOLLOW_JS)


def keep_in_sight(conversation: str | None, asked_at: float | None, *, busy: bool, drawing: bool) -> None:
    """Scroll to the end when there is something new at it, and follow it from then on.

    Args:
        conversation: that is shown. The first one of a tab stays at its beginning, to be read.
        asked_at: of its latest question; it stays what it was once the answer is there.
        busy: whether its answer is on its way.
        drawing: whether a picture to draw on is open below it.
    """
    with st.container(key="scrolling"):
        data = {"conversation": conversation, "asked": asked_at, "busy": busy, "drawing": drawing}
        _follow(key="follow", data=data)


_FOCUS_JS = """
const seen = new WeakMap();
export default function ({ data, parentElement }) {
  if (seen.get(parentElement) === data.what) return;
  seen.set(parentElement, data.what);
  const put = (tries) => {
    const field = document.querySelector(data.where);
    if (!field) return tries && setTimeout(() => put(tries - 1), 50); // it is drawn after this
    ((data.panel && field.closest(data.panel)) || field).scrollIntoView({ block: data.panel ? "start" : "nearest" });
    if (matchMedia("(pointer: coarse)").matches) return; // a keyboard would cover what was opened
    field.focus({ preventScroll: true });
    if (data.select) field.select();
    else field.setSelectionRange?.(field.value.length, field.value.length);
  };
  put(20);
}
"""
_focus: Any = st.components.v2.component("fourfold.focus", js=_FOCUS_JS)


def put_focus(where: str, what: str, *, panel: str = "", select: bool = False) -> None:
    """Begin in a field that has just been opened, and bring it into sight.

    Args:
        where: CSS selector of the field.
        panel: CSS selector of what is around it and is to be seen from its top; "" for the field alone.
        what: for which it is open; the focus is put there once for each.
        select: whether its words are selected.
    """
    with st.container(key=f"focusing-{what}"):
        _focus(key=f"focus-{what}", data={"where": where, "what": what, "panel": panel, "select": select})


# Streamlit's toasts refer to a name that they have not: a screen reader would say "alert" and nothing else.
_TOASTS_JS = """
const name = () => {
  for (const toast of document.querySelectorAll('[data-testid="stToast"]:not([aria-label])')) {
    toast.setAttribute("aria-label", toast.innerText);
    toast.removeAttribute("aria-labelledby");
  }
};
new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
export default name;
"""
_toasts: Any = st.components.v2.component("fourfold.toasts", js=_TOASTS_JS)


def name_toasts() -> None:
    """Have screen readers read notices; once on a page."""
    with st.container(key="toasts"):
        _toasts(key="name-toasts")


def foldable(text: str, *, before: str = "", longest: int = 600) -> None:
    """A person's words as they were written, after Markdown of ours; of long ones the beginning, and all on request."""
    if len(text) <= longest + 100:
        st.markdown(before + plain(text))
        return
    st.markdown(before + plain(text[:longest].rsplit(maxsplit=1)[0]) + " …")
    with st.expander("All of it"):
        st.markdown(plain(text))


def icon_button(label: str, icon: str, key: str, *, on: bool = False) -> bool:
    """A small button whose label is read aloud and shown on hovering."""
    return st.button(label, icon=icon, key=key, help=label, type="secondary" if on else "tertiary")


def zipped(write: Callable[[Path], object]) -> bytes:
    """What `write` puts into a folder, as a ZIP archive."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        files.mkdir()
        write(files)
        return Path(shutil.make_archive(f"{folder}/packed", "zip", files)).read_bytes()
