"""Words that were typed and not sent: they wait in the browser, each conversation's own, and survive a reload."""

from typing import Any

import streamlit as st

from fourfold.ui.state.session import Session

# Streamlit's script learns of words when they are sent. They are kept in this tab's session storage, which is gone with
# the tab; where nothing is to be kept, not even there.
_JS = """
const NAME = "fourfold.words.";
const FIELD = '[data-testid="stChatInput"] textarea';
const seen = (window.fourfoldWords ??= {}); // of the page, however often this is loaded
const keep = (key, words) => {
  if (words && seen.last?.keep) sessionStorage.setItem(NAME + key, words);
  else sessionStorage.removeItem(NAME + key);
};
seen.listener ??= (document.addEventListener("input", (event) => {
  if (event.target.matches?.(FIELD) && seen.last) keep(seen.last.conversation, event.target.value);
}), true);
const write = (words, only, tries) => {
  const field = document.querySelector(FIELD);
  if (!field) return tries && setTimeout(() => write(words, only, tries - 1), 50); // it is drawn after this
  if (field.value === words || (only && field.value)) return;
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, words);
  field.dispatchEvent(new Event("input", { bubbles: true }));
};
export default function ({ data }) {
  const last = seen.last;
  seen.last = data;
  for (const gone of data.gone) sessionStorage.removeItem(NAME + gone);
  if (!data.keep)
    for (const name of Object.keys(sessionStorage)) if (name.startsWith(NAME)) sessionStorage.removeItem(name);
  if (last && last.sent !== data.sent) {
    keep(last.conversation, "");
    keep(data.conversation, "");
    if (last.conversation === data.conversation) return data.fresh && write("", false, 20);
    return;
  }
  if (last?.conversation === data.conversation) return;
  const words = sessionStorage.getItem(NAME + data.conversation) ?? "";
  write(words, !last, 20); // a page that was reloaded may have been typed into already
}
"""
_words: Any = st.components.v2.component("fourfold.drafts", js=_JS)


def keep_words(found: Session) -> None:
    """Keep what is typed with its conversation, and bring it back; once on a page, after the input."""
    with st.container(key="drafts"):
        data = {
            "conversation": found.conversation or "",
            "sent": found.sent,
            "fresh": found.conversation is None,
            "gone": found.gone,
            "keep": not found.preferences.private,
        }
        _words(key="words", data=data)
