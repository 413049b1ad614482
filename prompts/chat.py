"""Chat templates: how a conversation becomes the text that a model was trained on."""

from pathlib import Path

from prompts.errors import UserError

_TEMPLATES = Path(__file__).parent / "templates"


def load_template(name: str) -> str:
    """Jinja text of the chat template `name`, for a processor's `chat_template`.

    Raises:
        UserError: there is no such template; the message lists those there are.
    """
    path = _TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in _TEMPLATES.glob("*.jinja")))
        raise UserError(f"no chat template is called {name!r}; there are: {names}")
    return path.read_text(encoding="utf-8")
