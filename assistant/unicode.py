"""Text that can be written down: JSON carries halves of characters, which no file, terminal or browser takes."""


def well_formed(text: str) -> str:
    """The text with two halves of a character (surrogates) joined, and a half alone replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
