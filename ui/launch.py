"""Running the page: Streamlit's own server in this process, on this machine only."""

from pathlib import Path
from typing import Any

from fourfold.assistant.images import LIMITS
from fourfold.ui.state.settings import Settings, configure

_APP = Path(__file__).with_name("app.py")

# Ink on paper, and the other way round; the accent has contrast on both.
_LIGHT = {
    "primaryColor": "#0f766e",
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f3f3f0",
    "textColor": "#1c1c1a",
    "borderColor": "#dededa",
}
_DARK = {
    "primaryColor": "#12897d",
    "backgroundColor": "#181918",
    "secondaryBackgroundColor": "#262826",
    "textColor": "#ececea",
    "borderColor": "#3a3c3a",
}
_SIDEBARS = {"light": "#f8f8f6", "dark": "#111211"}


def options(port: int, headless: bool) -> dict[str, Any]:
    """Streamlit's settings for the page: nothing is reported to anybody, nobody else is let in."""
    found: dict[str, Any] = {
        "server.address": "127.0.0.1",
        "server.port": port,
        "server.allowedHosts": ["127.0.0.1", "localhost"],  # no web page gets in by a name that it made point here
        "server.headless": headless,
        "server.maxUploadSize": LIMITS.bytes // 2**20,
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": False,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "logger.hideWelcomeMessage": True,
        "theme.baseRadius": "0.75rem",
        "theme.showWidgetBorder": True,
    }
    for name, colours in {"light": _LIGHT, "dark": _DARK}.items():
        found |= {f"theme.{name}.{key}": value for key, value in colours.items()}
        found[f"theme.{name}.sidebar.backgroundColor"] = _SIDEBARS[name]
    return found


def run(settings: Settings, *, port: int = 8501, headless: bool = False) -> None:
    """Serve the page on loopback until it is interrupted; its local server is started before and ended after."""
    # Before Streamlit is imported by anything that the page imports, so that its settings are known from the start.
    from streamlit.web import bootstrap

    flags = {name.replace(".", "_"): value for name, value in options(port, headless).items()}
    configure(settings)
    if settings.server is not None:
        settings.server.start()
    try:
        bootstrap.load_config_options(flags)
        bootstrap.run(str(_APP), False, [], flags)
    finally:
        if settings.server is not None:
            settings.server.stop()
