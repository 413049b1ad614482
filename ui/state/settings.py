"""What one run of the page was started with."""

from dataclasses import dataclass, field
from pathlib import Path

from fourfold.assistant.chat.history import default_path
from fourfold.assistant.refine.store import default_directory
from fourfold.ui.state.local_server import CURRENT, LocalServer


@dataclass(frozen=True)
class Settings:
    """What `fourfold ui` was asked for; the same for every browser tab.

    Attributes:
        endpoint: URL of an OpenAI-compatible endpoint, with its `/v1`; None where `server` is it.
        api_key: the endpoint's key.
        model: served name to begin with; None for the endpoint's first one.
        server: the local server that the page started by itself.
        history: the file that keeps the conversations.
        corrections: the directory that keeps the corrections.
    """

    endpoint: str | None = None
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    server: LocalServer | None = None
    history: Path = field(default_factory=default_path)
    corrections: Path = field(default_factory=default_directory)

    @property
    def preferences(self) -> Path:
        """The file that keeps what was set in the page."""
        return self.history.with_name("page.json")


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
