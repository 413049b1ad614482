"""Small things that Streamlit has not: buttons of an icon, of copying and of a folder, the newest words in sight."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

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


# The page scrolls inside Streamlit's main section; pictures load and grow after the element was drawn, hence the
# observer. Scrolling up by hand, or pressing something there, ends the following until the next question: a page that
# grows must not slide away under a box that is being dragged.
_FOLLOW_JS = """
const seen = new Map();
export default function ({ data }) {
  const main = document.querySelector('[data-testid="stMain"]');
  const content = main?.querySelector('[data-testid="stMainBlockContainer"]');
  if (!content) return;
  const { conversation, asked, drawing } = seen.get("last") ?? {};
  seen.set("last", data);
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
