"""Chat templates: how a conversation becomes the text that a model was trained on."""

from pathlib import Path

from fourfold.prompts.errors import UserError

_TEMPLATES = Path(__file__).parent / "templates"


def load_template(name: str) -> str:
    """Jinja text of the chat template `name`, for a processor's `chat_template`.

    Message content is a string, or a list of parts of type `text` and `image` (or `image_url`). Every template holds
    the BOS itself, takes the meaning away from placeholders and special tokens inside text, and marks answers with
    `{% generation %}`.

    Args:
        name: `chatml` (the default model), `minigpt_v2` (inference) or `minigpt_v2_train`. The last two know the
            template variable `double_bos`: whether the BOS stands twice at the start, true at inference (as the
            original has it) and false in training unless given.

    Raises:
        UserError: there is no such template; the message lists those there are.
    """
    path = _TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in _TEMPLATES.glob("*.jinja")))
        raise UserError(f"no chat template is called {name!r}; there are: {names}")
    return path.read_text(encoding="utf-8")
