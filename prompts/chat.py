"""Chat templates: how a conversation becomes the text that a model was trained on."""

from pathlib import Path

from fourfold.prompts.errors import UserError

NAMES = ("chatml", "minigpt_v2", "minigpt_v2_train")


def load_template(name: str) -> str:
    """Jinja text of the chat template `name`, for a processor's `chat_template`.

    Message content is a string, or a list of parts of type `text` and `image` (or `image_url`). Every template holds
    the BOS itself, takes the meaning away from placeholders and special tokens inside text, and marks answers with
    `{% generation %}`.

    Args:
        name: `chatml` (the default model), `minigpt_v2` (inference) or `minigpt_v2_train`: the same template with its
            variable `training` set. Both know the variable `double_bos`: whether the BOS stands twice at the start,
            true at inference (as the original has it) and false in training unless given.

    Raises:
        UserError: there is no such template; the message lists those there are.
    """
    if name not in NAMES:
        raise UserError(f"no chat template is called {name!r}; there are: {', '.join(NAMES)}")
    file = name.removesuffix("_train")
    text = (Path(__file__).parent / "templates" / f"{file}.jinja").read_text(encoding="utf-8")
    return text if file == name else "{%- set training = true -%}\n" + text
