"""Words of models, people and files as Markdown that can only be words."""

import re

_SIGNS = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~$:&^=@\"'])")
_DIRECTIVE = re.compile(r":(?=[A-Za-z0-9_+\-]+(?:[:\[/]))")
_HOST = re.compile(r"(https?://[\w.\-]+(?::\d+(?![\w\[]))?)")  # becomes a link by itself, in which nothing is escaped
_IMAGE = re.compile(r"!(?=\[)")


def plain(text: str) -> str:
    """Text that shows as it was written: every sign that Markdown knows loses its meaning, lines stay lines."""
    lines = (_SIGNS.sub(r"\\\1", line.strip(" \t")) for line in text.splitlines())
    return "  \n".join(lines)


def answer_markdown(text: str) -> str:
    """A model's answer as Markdown, without what could reach out or disguise itself.

    Lists, code, emphasis and tables of larger models keep their form. HTML is shown as text (Streamlit does that);
    images are not: fetching one would tell a stranger what was said. Links show where they lead, and neither formulas
    (a price in dollars is none) nor Streamlit's own directives are read.
    """
    pieces = re.split(r"(```.*?(?:```|\Z)|`[^`\n]*`)", text, flags=re.DOTALL)  # code is shown as it is
    return "".join(piece if number % 2 else _outside_code(piece) for number, piece in enumerate(pieces))


def _outside_code(text: str) -> str:
    text = text.replace("<", "&lt;").replace("$", "\\$")
    text = _IMAGE.sub(r"\\!", text)
    text = re.sub(r"\]\(\s*([^)\s]*)[^)]*\)", _link, text)
    text = re.sub(r"^(\s*)\[([^\]]*)\]:", r"\1\\[\2]\\:", text, flags=re.MULTILINE)  # link definitions
    parts = _HOST.split(text)
    return "".join(part if number % 2 else _DIRECTIVE.sub(r"\\:", part) for number, part in enumerate(parts))


def _link(match: re.Match[str]) -> str:
    """`[words](address)` → `[words] (address)`: what it leads to is read before it is followed."""
    address = match.group(1)
    # An address that becomes a link by itself would take a backslash behind it along.
    return f"] (<{address}>)" if re.fullmatch(r"https?://[^<>\s]+", address) else f"] \\({address}\\)"
