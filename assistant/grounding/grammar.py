"""The written form of boxes as a grammar, so that an engine can make no other than `parse_markup` reads."""

from functools import cache

_NUMBER = "(100|[1-9]?[0-9])"


@cache
def box_grammar() -> str:
    """Text, phrases and boxes in Lark's notation (llguidance's dialect): no box is cut, out of range or reversed.

    A box is `{<x1><y1><x2><y2>}` with numbers of 0..100, x1 <= x2 and y1 <= y2; several are joined by `<delim>`.
    Outside of boxes no brace, no ampersand and no number in angle brackets is possible.
    """
    across = "|".join(f"<{low}><{_NUMBER}><{_at_least(low)}><{_NUMBER}>" for low in range(101))
    down = "|".join(f"<{_NUMBER}><{low}><{_NUMBER}><{_at_least(low)}>" for low in range(101))
    return "\n".join(
        [
            "start: (TEXT | BOX)*",
            r"TEXT: /([^{}<&]|<[^{}<&0-9])+/",
            # Each of the two says nothing about the other's numbers; a box has to be in both.
            rf"BOX: /\{{({across})\}}/ & /\{{({down})\}}/",
        ]
    )


def _at_least(low: int) -> str:
    """A regular expression of the numbers from `low` to 100."""
    if low == 100:
        return "100"
    tens, ones = divmod(low, 10)
    parts = ["100", f"{tens or ''}[{ones}-9]"]
    if tens < 9:
        parts.append(f"[{tens + 1}-9][0-9]")
    return f"({'|'.join(parts)})"
