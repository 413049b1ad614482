"""What one browser tab holds between two runs of the script."""

import time
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from fourfold.assistant.chat.history import ChatHistory, InMemoryHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment, Document
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.memory import CorrectionMemory
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.steps import forget, forget_concept, forget_example
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from fourfold.ui.state.answering import drop
from fourfold.ui.state.corrections import Said
from fourfold.ui.state.endpoint import Endpoint, Served, served_models
from fourfold.ui.state.error_messages import sentence
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.settings import Settings

_FRESH = 20.0  # seconds that a list of models is good for; adapters come and go


class Draft(NamedTuple):
    """What waits in a conversation for its next question; its words wait in the browser (`composer.js`)."""

    pending: list[Attachment]
    documents: list[Document]
    chosen: int
    region: Box | None
    pointing: bool


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
    documents: list[Document] = field(default_factory=list)  # whose pages are being chosen for it
    refused: list[str] = field(default_factory=list)  # why files that were just chosen are no pictures
    chosen: int = -1  # which of `pending` is looked at, and asked about where only one can be
    region: Box | None = None  # a rectangle that goes with the next question
    drawings: int = 0  # counts, so that the canvas forgets a rectangle that was used up
    wants_name: bool = False  # whether "What is this?" was pressed at the rectangle
    waiting: tuple[str, str] | None = None  # a conversation, and words that were sent while it was being answered
    unsent: str | None = None  # words that could not be sent, to be put back into the input
    pointing: bool = False  # whether a rectangle is being drawn on an earlier picture
    editing: int | None = None  # position of the question that is being edited
    correcting: int | None = None  # position of the turn whose answer is being corrected
    view: Literal["chat", "refine"] = "chat"
    uploads: int = 0  # counts, so that an emptied uploader is a new one
    notices: list[str] = field(default_factory=list)  # to be shown once, in the next run
    _drafts: dict[str | None, Draft] = field(default_factory=dict)
    _models_at: float = 0.0
    _kept: ChatHistory | None = None
    _private: InMemoryHistory | None = None
    _store: CorrectionStore | None = None
    _memory: CorrectionMemory | None = None
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
    def memory(self) -> CorrectionMemory:
        """Of the store: what was corrected is answered so by the page itself, whatever endpoint it asks."""
        self._memory = self._memory or CorrectionMemory(self.store)
        return self._memory

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
            self.endpoint = self.chosen_endpoint or self.first_endpoint
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
            self.trouble = None if self.models else sentence(error, self.endpoint.url)
            if server is not None and self.asks_local_server and server.state != "ready":
                self.disconnect()

    @property
    def first_endpoint(self) -> Endpoint | None:
        """The endpoint that the page was started with; None while its own server loads its model."""
        settings = self.settings
        if settings.endpoint:
            return Endpoint(settings.endpoint, settings.api_key, settings.model)
        server = settings.server
        return Endpoint(server.url, server.key) if server is not None and server.state == "ready" else None

    @property
    def chosen_endpoint(self) -> Endpoint | None:
        """The endpoint that was chosen in the page, in whatever tab, or when it ran before."""
        if self.settings.chosen.endpoint is not None or self.settings.endpoint or not self.preferences.endpoint:
            return self.settings.chosen.endpoint
        url = self.preferences.endpoint
        return Endpoint(url, self.settings.chosen.keys.get(url), self.preferences.endpoint_model or None)

    def choose(self, endpoint: Endpoint | None) -> None:
        """Answer from another endpoint, after a reload and in new tabs too; None for the one of the page's start.

        Its address is kept in the preferences. Its key is kept in the memory of this process only.
        """
        chosen = self.settings.chosen
        if endpoint is not None and endpoint.key:
            chosen.keys[endpoint.url] = endpoint.key
        elif endpoint is not None and (key := chosen.keys.get(endpoint.url)):
            endpoint = replace(endpoint, key=key)
        chosen.endpoint = endpoint
        self.preferences.endpoint = endpoint.url if endpoint is not None else ""
        self.preferences.endpoint_model = (endpoint.model or "") if endpoint is not None else ""
        self.save()
        self.disconnect(endpoint)

    def disconnect(self, endpoint: Endpoint | None = None) -> None:
        """Forget the endpoint and its models, to ask for them again."""
        self.endpoint, self.models, self.trouble = endpoint, [], None

    def save(self) -> None:
        self.preferences.save(self.settings.preferences)

    def open(self, conversation: str | None) -> None:
        """Show a conversation with what waits in it; None for a new one, which is empty when it is asked for twice."""
        fresh = conversation is None and self.conversation is None and self.view == "chat"
        self._drafts[self.conversation] = Draft(self.pending, self.documents, self.chosen, self.region, self.pointing)
        self.conversation, self.view = conversation, "chat"
        self.leave()
        self.clear()
        draft = self._drafts.pop(conversation, None)
        if fresh:
            self.unsent = ""
        elif draft is not None:
            self.pending, self.documents, self.chosen, self.region, self.pointing = draft

    def clear(self) -> None:
        """Put away what waits for the next question."""
        self.pending, self.documents, self.chosen = [], [], -1

    def forget_conversation(self, conversation: str) -> None:
        """Nothing of a conversation that was deleted waits any more."""
        if self.conversation == conversation:
            self.open(None)
        self._drafts.pop(conversation, None)

    def leave(self) -> None:
        """Close what was open inside the conversation."""
        self.region, self.pointing, self.editing, self.correcting = None, False, None, None
        self.refused = []

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

        Where it stands in place of an answer in a conversation, the answer is back.

        Returns:
            The adapter in use, where it has learnt the correction; None otherwise.

        Raises:
            UserError: there is no such correction.
        """
        still = forget(self.store, self.registry, record)
        self.bring_back(record)
        return still

    def forget_concept(self, name: str) -> str | None:
        """Delete what was shown for good; what it returns and what goes with it, as for `forget`.

        Raises:
            UserError: no concept has this name.
        """
        return forget_concept(self.store, self.registry, name)[1]

    def forget_example(self, id: str) -> str | None:
        """The same for one example of it.

        Raises:
            UserError: there is no such example.
        """
        return forget_example(self.store, self.registry, id)

    def bring_back(self, record: str) -> None:
        """Have the model's own answer stand again where a correction stands in place of it."""
        self._kept = self._kept or ChatHistory(self.settings.history)
        for conversation, number in self._kept.find("corrected", record):
            self._kept.withdraw(conversation, number)
