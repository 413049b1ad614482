"""What one browser tab holds between two runs of the script."""

from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from fourfold.ui.state.answering import drop
from fourfold.ui.state.endpoint import Endpoint, Served
from fourfold.ui.state.in_memory_history import InMemoryHistory
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.settings import Settings, current


@dataclass
class State:
    """One tab.

    Attributes:
        settings: of this process.
        preferences: what was set in the page.
        endpoint: where answers come from; None while the local server is loading its model.
        models: that the endpoint serves.
        trouble: why there are none, as a sentence.
        conversation: id of the one that is shown; None before the first question.
        pending: pictures that wait for their question.
        region: a rectangle that goes with the next question.
        pointing: whether a rectangle is being drawn on an earlier picture.
        editing: position of the question that is being edited.
        correcting: position of the turn whose answer is being corrected.
        view: "chat" or "refine".
        uploads: counts, so that an emptied uploader is a new one.
        notices: to be shown once, in the next run.
    """

    settings: Settings
    preferences: Preferences
    endpoint: Endpoint | None = None
    models: list[Served] = field(default_factory=list)
    trouble: str | None = None
    conversation: str | None = None
    pending: list[bytes] = field(default_factory=list)
    region: Box | None = None
    pointing: bool = False
    editing: int | None = None
    correcting: int | None = None
    view: str = "chat"
    uploads: int = 0
    notices: list[str] = field(default_factory=list)
    _kept: ChatHistory | None = None
    _private: InMemoryHistory | None = None
    _store: CorrectionStore | None = None

    @property
    def history(self) -> ChatHistory:
        """Where conversations are kept, or the memory that forgets them."""
        if self.preferences.private:
            self._private = self._private or InMemoryHistory()
            return self._private
        self._kept = self._kept or ChatHistory(self.settings.history)
        return self._kept

    @property
    def store(self) -> CorrectionStore:
        """Where corrections are kept."""
        self._store = self._store or CorrectionStore(self.settings.corrections)
        return self._store

    def save(self) -> None:
        """Keep the preferences."""
        self.preferences.save(self.settings.preferences)

    def open(self, conversation: str | None) -> None:
        """Show another conversation, or a new one."""
        self.conversation, self.view = conversation, "chat"
        self.leave()
        self.pending = []

    def leave(self) -> None:
        """Close what was open inside the conversation."""
        self.region, self.pointing, self.editing, self.correcting = None, False, None, None

    def set_private(self, private: bool) -> None:
        """Turn keeping nothing on or off. Either way a new conversation begins; what was private is gone."""
        if self._private is not None:
            for info in self._private.conversations():
                drop(info.id)
            self._private = None
        self.preferences.private = private
        self.save()
        self.open(None)


def state() -> State:
    """This tab's state; made from the address and the preferences when the tab opens."""
    if "state" not in st.session_state:
        settings = current()
        st.session_state.state = found = State(settings, Preferences.load(settings.preferences))
        found.preferences.model = settings.model or found.preferences.model
        found.conversation = _known(found, st.query_params.get("c"))
        found.view = "refine" if st.query_params.get("view") == "refine" else "chat"
    return st.session_state.state


def show_in_address() -> None:
    """Put the conversation into the address, so that a reload comes back to it. Private ones stay out of it."""
    found = state()
    wanted: dict[str, Any] = {}
    if found.conversation and not found.preferences.private:
        wanted["c"] = found.conversation
    if found.view == "refine":
        wanted["view"] = "refine"
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def _known(found: State, conversation: str | None) -> str | None:
    if not conversation or found.preferences.private:
        return None
    try:
        return found.history.info(conversation).id
    except UserError:
        return None
