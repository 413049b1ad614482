"""Reading a phrase: "the red ball on the left" is a noun, a colour and a side."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fourfold.assistant.english import (
    COLOURS,
    FEMALE,
    MALE,
    PEOPLE,
    YOUNG,
    head_noun,
    number_of,
    singular,
    words_in,
    words_of,
)

MAX_CHARACTERS = 300
"""Of a phrase; whoever writes more names nothing one could point at."""

_SIDES = {
    "left": "left", "leftmost": "left", "right": "right", "rightmost": "right", "top": "top", "upper": "top",
    "bottom": "bottom", "lower": "bottom", "middle": "middle", "center": "middle", "centre": "middle",
}  # fmt: skip
_SIDE = re.compile(
    r"\b(?:(?:on|in|at|to)\s+(?:the\s+)?(?:very\s+|far\s+)?(left|right|top|bottom|middle|cent(?:er|re))"
    r"(?:[- ]hand)?(?:\s+(?:side|corner|half))?(?!\s+of\s+(?:the|a|an)\s+(?!image|picture|photo)|\s+of\s+\w+$)"
    r"(?:\s+of\s+the\s+(?:image|picture|photo))?|(leftmost|rightmost|left|right|upper|lower|middle)(?=\s+(?!of\b)\w))"
)
# Words between two things, the longest first, and what they say of the first one's place.
_RELATIONS = (
    ("to the left of", "left of"), ("on the left of", "left of"), ("left of", "left of"),
    ("to the right of", "right of"), ("on the right of", "right of"), ("right of", "right of"),
    ("next to", "near"), ("close to", "near"), ("in front of", "near"), ("on top of", "above"),
    ("beside", "near"), ("near", "near"), ("by", "near"), ("behind", "near"), ("with", "near"), ("holding", "near"),
    ("wearing", "near"), ("riding", "near"), ("carrying", "near"), ("above", "above"), ("over", "above"),
    ("below", "below"), ("beneath", "below"), ("underneath", "below"), ("under", "below"),
    ("inside", "near"), ("in", "near"), ("on", "near"), ("at", "near"),
)  # fmt: skip
_RELATION = re.compile(r"\b(" + "|".join(word for word, _ in _RELATIONS) + r")\s+(?=\w)")
_PLACE_OF = dict(_RELATIONS)

# Nouns that say the same; whichever of them the library knows stands for the others.
_SAME = tuple(
    words_in(group)
    for group in (
        "bicycle bike", "motorcycle motorbike", "couch sofa", "tv television monitor", "airplane plane aeroplane",
        "cellphone phone telephone", "t-shirt tshirt tee", "road street", "rock boulder stone", "ocean sea",
        "forest wood", "kid child", "man guy gentleman fellow", "woman lady", "girl", "boy lad", "puppy pup",
        "cup mug", "bag purse handbag", "jacket coat", "hat cap", "picture painting", "pond lake", "car automobile",
        "photographer cameraman", "sidewalk pavement", "truck lorry", "trousers pants", "store shop", "circle disc",
        "sneaker shoe", "infant baby toddler", "soccer football", "trail path", "rug carpet", "bush shrub",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What a phrase points at.

    Attributes:
        noun: of the library, or a concept's name.
        colours: of `COLOURS`, in the order of the phrase.
        side: "left", "right", "top", "bottom", "middle", or None.
        relation: where it lies to `other`: "near", "above", "below", "left of", "right of"; None without another.
        other: the thing that it is described by.
        several: more than one is meant.
    """

    noun: str
    colours: tuple[str, ...] = ()
    side: str | None = None
    relation: str | None = None
    other: "Target | None" = None
    several: bool = False


def read_phrase(phrase: str, noun_of: Callable[[str], str | None], concepts: Sequence[str] = ()) -> Target | None:
    """What a phrase points at; None where it names nothing that is known.

    Args:
        phrase: as a person writes it.
        noun_of: the known noun that a word stands for, None for none.
        concepts: names of what was shown, which go before nouns, the longest first.
    """
    if len(phrase) > MAX_CHARACTERS:
        return None
    text = re.sub(r"\s+", " ", phrase.lower().replace("grey", "gray")).strip(" .?!,")
    return _read(text, noun_of, sorted(concepts, key=len, reverse=True))


def _read(text: str, noun_of: Callable[[str], str | None], concepts: Sequence[str], depth: int = 2) -> Target | None:
    side = None
    if found := _SIDE.search(text):
        side = _SIDES[(found[1] or found[2]).replace("centre", "center")]
        text = f"{text[: found.start()]} {text[found.end() :]}".strip()
    first, relation, rest = text, None, ""
    if concept := _concept_in(text, concepts):
        first, _, rest = text.partition(concept.lower())
        between = _RELATION.match(rest.strip())
        first, rest = concept, rest.strip()[between.end() :] if between else ""
        relation = between and _PLACE_OF[between[1]]
        noun: str | None = concept
        colours: tuple[str, ...] = ()
        several = False
    else:
        for between in _RELATION.finditer(text):
            if between.start() and head_noun(text[: between.start()]):
                first, relation, rest = text[: between.start()].strip(), _PLACE_OF[between[1]], text[between.end() :]
                break
        noun = known_noun(first, noun_of)
        words = words_of(first)
        colours = tuple(dict.fromkeys(word for word in words if word in COLOURS and word != noun))
        several = (number_of(first) or 1) > 1 or bool(words and singular(words[-1]) != words[-1])
    if noun is None:
        return None
    other = _read(rest, noun_of, concepts, depth - 1) if relation and depth else None
    return Target(noun, colours, side, relation if other else None, other, several)


def _concept_in(text: str, concepts: Sequence[str]) -> str | None:
    """The longest concept whose name stands in a text as whole words."""
    for name in concepts:
        if re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", text):
            return name
    return None


def known_noun(phrase: str, noun_of: Callable[[str], str | None]) -> str | None:
    """The known noun that a phrase is about: its last words together, its head noun, or one that says the same."""
    words = words_of(phrase)
    if not words:
        return None
    for count in (3, 2):  # "dining table", "traffic light"
        if len(words) >= count and (found := noun_of(" ".join([*words[-count:-1], singular(words[-1])]))):
            return found
    head = head_noun(phrase) or (singular(words[-1]) if words[-1] not in COLOURS else None)
    if head is None:
        return None
    return noun_of(head)


def same_noun(noun: str, known: Callable[[str], bool]) -> str | None:
    """A known noun that says the same as `noun`, or what it is a kind of among people; None for none."""
    if known(noun):
        return noun
    for group in _SAME:
        if noun in group:
            for other in sorted(group):
                if known(other):
                    return other
    if "-" in noun and (found := same_noun(noun.rpartition("-")[2], known)):
        return found
    if noun in PEOPLE:
        wider = ["girl"] if noun in FEMALE & YOUNG else ["boy"] if noun in MALE & YOUNG else []
        wider += ["woman"] if noun in FEMALE else ["man"] if noun in MALE else []
        wider += ["child"] if noun in YOUNG else []
        for other in [*wider, "person", "man"]:
            if known(other):
                return other
    return None
