"""Colours of phrases and their boxes: those that `assistant.grounding.draw` paints with."""

from collections.abc import Sequence

from fourfold.assistant.grounding import GroundedPhrase

# Okabe and Ito's colours without black: told apart by colour-blind people too.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


def colour(number: int) -> str:
    """The colour of phrase number `number`, as CSS writes it."""
    return PALETTE[number % len(PALETTE)]


def groups(phrases: Sequence[GroundedPhrase]) -> list[int]:
    """A group for each phrase; the same words, said twice, are one group and share its colour."""
    known: dict[str, int] = {}
    found: list[int] = []
    for place, phrase in enumerate(phrases):
        name = (phrase.phrase or f"\0{place}").casefold()
        found.append(known.setdefault(name, len(known)))
    return found
