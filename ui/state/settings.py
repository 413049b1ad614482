"""What one run of the page was started with."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from fourfold.assistant.chat.history import default_path
from fourfold.assistant.refine.store import default_directory
from fourfold.ui.state.endpoint import Endpoint
from fourfold.ui.state.local_server import CURRENT, LocalServer


@dataclass
class Chosen:
    """Which endpoint was chosen in the page, for all its tabs; with its key it is gone when the page's process ends."""

    endpoint: Endpoint | None = None
    keys: dict[str, str] = field(default_factory=dict)  # by address


@dataclass(frozen=True)
class Settings:
    """What `fourfold ui` was asked for; the same for every browser tab."""

    endpoint: str | None = None  # URL with its /v1; None where `server` is it
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None  # served name to begin with; None for the endpoint's first one
    server: LocalServer | None = None  # that the page started by itself
    history: Path = field(default_factory=default_path)
    corrections: Path = field(default_factory=default_directory)
    # With it adapters of `endpoint` may be changed.
    admin_key: str | None = field(default_factory=lambda: os.environ.get("FOURFOLD_ADMIN_KEY"), repr=False)

    chosen: Chosen = field(default_factory=Chosen, repr=False, compare=False)

    @property
    def preferences(self) -> Path:
        return self.history.with_name("page.json")

    @property
    def follower(self) -> Endpoint | None:
        """The server that is told when an adapter is put to use here, with its admin key; None for none.

        It is the page's own, or the endpoint that the page was started with, where an admin key was given too. An
        endpoint of somebody else knows nothing of directories on this machine, and no key that it has is for that.
        """
        if self.server is not None:
            return Endpoint(self.server.url, self.server.key) if self.server.state == "ready" else None
        return Endpoint(self.endpoint, self.admin_key) if self.endpoint and self.admin_key else None


_current: Settings | None = None


def configure(settings: Settings) -> None:
    """Make these the settings of this process; scripts of Streamlit run in its threads and have no arguments."""
    global _current
    _current = settings


def current() -> Settings:
    """The settings of this process; a page that was started without any serves the default model by itself."""
    if _current is None:
        corrections = default_directory()
        server = LocalServer(adapter=CURRENT, store=corrections)
        server.start()
        configure(Settings(server=server, corrections=corrections))
    assert _current is not None
    return _current
