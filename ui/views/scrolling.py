"""Keeping the newest words in sight: after a question, and while its answer grows, unless somebody scrolls away."""

from typing import Any

import streamlit as st

# The page scrolls inside Streamlit's main section; pictures load and grow after the element was drawn, hence the
# observer. Scrolling up by hand ends the following until the next question.
_JS = """
const seen = new Map();
export default function ({ data }) {
  const main = document.querySelector('[data-testid="stMain"]');
  const content = main?.querySelector('[data-testid="stMainBlockContainer"]');
  if (!content) return;
  const known = seen.get("token");
  seen.set("token", data.token);
  if (known === data.token || (known === undefined && !data.busy)) return;
  seen.get("observer")?.disconnect();
  let following = true;
  const away = (event) => {
    if (event.type !== "wheel" || event.deltaY < 0) following = false;
  };
  main.addEventListener("wheel", away, { passive: true });
  main.addEventListener("touchmove", away, { passive: true });
  const observer = new ResizeObserver(() => {
    if (following) main.scrollTo({ top: main.scrollHeight });
  });
  observer.observe(content);
  seen.set("observer", observer);
  main.scrollTo({ top: main.scrollHeight });
}
"""
_component: Any = st.components.v2.component("fourfold.scrolling", js=_JS)


def keep_in_sight(token: str, *, busy: bool) -> None:
    """Scroll to the end of the conversation when `token` changes, and follow it from then on.

    Args:
        token: names the last question.
        busy: whether its answer is on its way; a conversation that is opened to be read stays at its beginning.
    """
    with st.container(key="scrolling"):
        _component(key="follow", data={"token": token, "busy": busy})
