"""A button that copies text; Streamlit has none."""

from typing import Any

import streamlit as st

_CSS = """
button { all: unset; display: grid; place-items: center; width: 2rem; height: 2rem; border-radius: 0.5rem;
  cursor: pointer; color: var(--st-text-color); opacity: 0.75; }
button:hover { opacity: 1; color: var(--st-primary-color); }
button:focus-visible { outline: 3px solid var(--st-primary-color); }
svg { width: 1.15rem; height: 1.15rem; fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round;
  stroke-linecap: round; }
"""
_HTML = """<button type="button" aria-label="Copy the answer" title="Copy"><svg viewBox="0 0 24 24" aria-hidden="true">
<path d="M9 9h11v11H9zM5 15H4V4h11v1"/></svg></button>"""
_JS = """
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
_component: Any = st.components.v2.component("fourfold.copy", html=_HTML, css=_CSS, js=_JS)


def copy_button(text: str, *, key: str) -> None:
    """A small button that puts `text` on the clipboard."""
    _component(key=key, data=text, width="content")
