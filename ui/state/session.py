"""What one browser tab holds between two runs of the script."""

import time
from dataclasses import dataclass, field
from typing import Literal

from fourfold.assistant.chat.history import ChatHistory, InMemoryHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.steps import forget
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from fourfold.ui.state.answering import drop
from fourfold.ui.state.corrections import Said
from fourfold.ui.state.endpoint import Endpoint, Served, served_models
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.settings import Settings

_FRESH = 20.0  # seconds that a list of models is good for; adapters come and go


@dataclass
class Session:
    """One tab."""

    settings: Settings
    preferences: Preferences
    endpoint: Endpoint | None = None  # None while the local server is loading its model
    models: list[Served] = field(default_factory=list)
    trouble: str | None = None  # why there are none, as a sentence
    conversation: str | None = None  # the one that is shown; None before the first question
    asked_at: float | None = None  # when the latest question that was seen under way was asked
    pending: list[Attachment] = field(default_factory=list)  # pictures that wait for their question
    region: Box | None = None  # a rectangle that goes with the next question
    pointing: bool = False  # whether a rectangle is being drawn on an earlier picture
    editing: int | None = None  # position of the question that is being edited
    correcting: int | None = None  # position of the turn whose answer is being corrected
    view: Literal["chat", "refine"] = "chat"
    uploads: int = 0  # counts, so that an emptied uploader is a new one
    notices: list[str] = field(default_factory=list)  # to be shown once, in the next run
    _models_at: float = 0.0
    _kept: ChatHistory | None = None
    _private: InMemoryHistory | None = None
    _store: CorrectionStore | None = None
    _concepts: ConceptStore | None = None
    _judged: tuple[tuple[int, ...], dict[Said | None, Correction]] | None = None

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
        self._store = self._store or CorrectionStore(self.settings.corrections)
        return self._store

    @property
    def concepts(self) -> ConceptStore:
        self._concepts = self._concepts or ConceptStore(self.settings.corrections)
        return self._concepts

    @property
    def registry(self) -> Registry:
        return Registry(self.settings.corrections)

    @property
    def judged(self) -> dict[Said | None, Correction]:
        """The latest record of each answer that was judged; read again only once a record has come or gone."""
        stamp = self.store.stamp()
        if self._judged is None or self._judged[0] != stamp:
            self._judged = stamp, {(c.image, c.question, c.rejected): c for c in self.store.list()}
        return self._judged[1]

    @property
    def asks_local_server(self) -> bool:
        """Whether answers come from the server that the page started."""
        server = self.settings.server
        return server is not None and self.endpoint is not None and self.endpoint.url == server.url

    def connect(self) -> None:
        """Bring the list of models up to date; what hinders is put into `trouble`."""
        server = self.settings.server
        if self.endpoint is None:
            if self.settings.endpoint:
                self.endpoint = Endpoint(self.settings.endpoint, self.settings.api_key)
            elif server is not None and server.state == "ready":
                self.endpoint = Endpoint(server.url, server.key)
        if self.endpoint is None:
            if server is not None and server.state == "failed":
                self.trouble = f"The local model could not be started: {server.complaint}."
            return
        if self.models and time.monotonic() - self._models_at < _FRESH:
            return
        try:
            self.models = served_models(self.endpoint)
            self.trouble = None
            self._models_at = time.monotonic()
        except UserError as error:
            # A list that was good a moment ago serves until a question says otherwise.
            self.trouble = None if self.models else str(error)
            if server is not None and self.asks_local_server and server.state != "ready":
                self.disconnect()

    def disconnect(self, endpoint: Endpoint | None = None) -> None:
        """Forget the endpoint and its models, for another one."""
        self.endpoint, self.models, self.trouble = endpoint, [], None

    def save(self) -> None:
        self.preferences.save(self.settings.preferences)

    def open(self, conversation: str | None) -> None:
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

    def forget(self, record: str) -> str | None:
        """Delete a correction for good, and the adapters that have learnt it, but for the one in use.

        Returns:
            The adapter in use, where it has learnt the correction; None otherwise.

        Raises:
            UserError: there is no such correction.
        """
        return forget(self.store, self.registry, record)
