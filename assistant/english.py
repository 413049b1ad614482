"""Small English: the word classes and forms that turn annotated phrases into questions."""

import re
from functools import cache
from typing import Any


def words_in(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLOURS = (
    "red", "blue", "green", "yellow", "white", "black", "brown", "orange", "pink", "purple", "gray", "tan",
)  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_PLURAL_ONLY = words_in(
    "shorts jeans pants sunglasses glasses goggles clothes stairs steps trunks scissors overalls tights leggings "
    "pajamas trousers"
)
# inflect takes every word in "s" for a plural ("us" and "is" are seen by rule here), and pronouns for nouns.
_SINGULAR = words_in("canvas lens gas christmas gymnastics news")
_IRREGULAR = words_in("people men women children feet teeth geese mice")
# Most nouns in "o" take an "s" ("photos"); inflect gives all that it does not know an "es".
_TAKES_ES = words_in("potato tomato hero echo mosquito volcano torpedo buffalo mango")
# "a group of people" speaks of people; the words before "of" that only measure.
_MEASURES = words_in(
    "group set pair bunch couple crowd number lot team piece body patch pile line row variety bit kind side "
    "top edge back front part lots several two three four some many area bunch pack bottle cup"
)
_NO_NOUN = words_in(
    "one other another others something someone somebody it them him her each both two three four five "
    "several many some all this that these those he she they what which who outside inside open middle area "
    "other air back front top side background foreground distance ground something object objects camera self "
    "picture day way edge line left right bottom down up out there here little big small large young old high "
    "each together"
) | frozenset(COLOURS)  # fmt: skip
_NUMERALS = {word: number for number, word in enumerate(NUMBERS)} | {"a": 1, "an": 1}

# Words of which the presence of one makes another true or likely: "is there a man?" is not denied of a "guy".
FAMILIES: tuple[frozenset[str], ...] = tuple(
    words_in(family)
    for family in (
        "dog puppy animal greyhound poodle terrier retriever labrador hound canine pup pet collie dalmatian",
        "cat kitten animal pet",
        "horse pony animal",
        "cow bull calf cattle animal steer",
        "bird seagull duck goose pigeon flock parrot eagle animal",
        "bike bicycle motorcycle motorbike dirtbike cycle atv moped scooter vehicle quad",
        "car truck vehicle van suv taxi bus automobile jeep racecar",
        "boat canoe kayak raft ship sailboat canoeist kayaker rower vessel",
        "water pool ocean sea lake river pond stream surf wave waterfall fountain sprinkler puddle beach creek",
        "beach sand shore ocean sea coast",
        "grass field lawn yard park meadow pasture hill",
        "field grass track court stadium pitch park yard pasture",
        "snow ice slope mountain ski snowboard sled snowball hill",
        "mountain hill cliff rock peak slope boulder ledge",
        "rock boulder cliff stone mountain ledge climber",
        "tree wood forest log branch trunk leaf",
        "street road sidewalk path trail city crosswalk highway track alley",
        "shirt t-shirt tshirt jersey top blouse sweater sweatshirt jacket coat uniform outfit vest tank clothes",
        "jacket coat sweater sweatshirt vest hoodie parka",
        "hat cap helmet hood beanie headgear",
        "shorts pants jeans trunks trousers swimsuit bottom",
        "glasses sunglasses goggles spectacles eyewear",
        "ball football basketball baseball soccer tennis volleyball",
        "building house wall structure store skyscraper city shop",
        "table desk bench counter", "chair couch sofa seat bench stool bed", "toy doll ball frisbee stuffed",
        "skateboard skateboarder board ramp skater", "surfboard surfer wave board surfing",
        "snowboard snowboarder board", "frisbee disc toy", "stick branch log bone pole",
        "guitar instrument musician band", "slide swing playground", "flower plant bush",
        "fence railing gate rail", "rope leash string line", "bag backpack purse luggage handbag",
        "stairs steps staircase step", "tv television tvmonitor monitor screen", "sofa couch",
        "cellphone phone cell telephone", "cup mug glass bottle drink", "wine glass", "boy son brother",
        "plane aeroplane airplane",
    )
)  # fmt: skip
MALE = words_in("man men boy guy son father dad brother gentleman male boys guys grandfather")
FEMALE = words_in("woman women girl lady mother mom daughter sister female bride girls ladies grandmother")
YOUNG = words_in("boy girl child kid baby toddler infant")
PEOPLE = (
    MALE
    | FEMALE
    | YOUNG
    | words_in(
        "person people adult crowd player couple team family rider biker cyclist surfer skier snowboarder "
        "skateboarder climber hiker runner dancer child kid swimmer bicyclist motorcyclist group friend teen "
        "teenager human someone cheerleader worker musician skater athlete kayaker bikers racer fan officer "
        "soldier diver jumper student pedestrian performer singer guitarist wrestler jogger fisherman vendor "
        "clown spectator audience cowboy individual"
    )
)


@cache
def _inflect() -> Any:
    from unittest import mock

    # inflect has typeguard rewrite all its functions, which makes importing it take 1.5 s in place of 0.05.
    with mock.patch("typeguard.typechecked", lambda function: function):
        import inflect
    return inflect.engine()


@cache
def singular(word: str) -> str:
    """The singular of an English noun, and any other word as it is; exact enough for the words of captions."""
    word = word.lower()
    if word == "grey":
        return "gray"
    is_plural = word in _IRREGULAR or (len(word) > 3 and word[-1] == "s" and word[-2] not in "sui")
    if not is_plural or word in _PLURAL_ONLY | _SINGULAR:
        return word
    return _inflect().singular_noun(word) or word


def plural(word: str) -> str:
    if word in _PLURAL_ONLY:
        return word
    if word.endswith("o") and word not in _TAKES_ES:
        return word + "s"
    many = _inflect().plural_noun(word)
    # A word in "s" that is a plural already, or has none: "skis", "tennis".
    return word if many == word + "s" and word.endswith("s") else many


def is_plural_only(word: str) -> bool:
    """Whether the noun has no singular in use: "jeans"."""
    return word in _PLURAL_ONLY


def is_counted(word: str) -> bool:
    """Whether one can ask how many there are: not of "jeans", not of "grass"."""
    return word not in _PLURAL_ONLY | _MASS


_MASS = words_in(
    "water snow grass sand hair dirt mud food clothing equipment ice gear luggage wood surf surfing fire "
    "smoke air jewelry makeup traffic furniture sky paint foam concrete pavement greenery foliage moss tennis "
    "gymnastics chess fitness business gas christmas"
)


def with_article(noun: str) -> str:
    """`a dog`, `an umbrella`, `jeans`, `water`."""
    last = noun.rpartition(" ")[2]
    if not is_counted(last):
        return noun
    return _inflect().a(noun)


def words_of(text: str) -> list[str]:
    """Lower-case words, hyphens kept inside."""
    return re.findall(r"[a-z][a-z'-]*", text.lower())


def head_noun(phrase: str) -> str | None:
    """The noun a phrase is about, singular: `a group of young people` → `person`; None where there is none."""
    words = words_of(phrase)
    while "of" in words:
        before, after = words[: words.index("of")], words[words.index("of") + 1 :]
        if not after or (before and before[-1] not in _MEASURES and singular(before[-1]) not in _MEASURES):
            words = before
        else:
            words = after
    for mark in ("in", "on", "with", "at", "and", "who", "that"):
        if mark in words[1:]:
            words = words[: words.index(mark, 1)]
    if not words or words[-1] in _NO_NOUN or len(words[-1]) < 3 or words[-1].endswith("ing"):
        return None
    noun = singular(words[-1])
    return None if noun in _NO_NOUN else noun


def colour_of(phrase: str) -> str | None:
    """The colour a phrase gives to its noun, where it gives exactly one: `a red shirt` → `red`."""
    words = [("gray" if word == "grey" else word) for word in words_of(phrase)]
    found = [word for word in words[:-1] if word in COLOURS]
    # "red and white shirt", "black-haired girl", "brown dog" and "light blue": only the plain case is certain.
    if len(found) != 1 or any(c + "-" in word or "-" + c in word for word in words for c in COLOURS):
        return None
    if "and" in words or "of" in words or words.index(found[0]) < len(words) - 3:
        return None
    return found[0]


def number_of(phrase: str) -> int | None:
    """How many a phrase speaks of, where it says so: `two small dogs` → 2, `a dog` → 1, `dogs` → None."""
    words = words_of(phrase)
    if not words or "of" in words or "and" in words:
        return None
    number = _NUMERALS.get(words[0])
    return number if number == 1 or (number is not None and singular(words[-1]) != words[-1]) else None


def related(noun: str) -> frozenset[str]:
    """Nouns whose presence forbids to deny `noun` of an image, itself among them."""
    if noun in PEOPLE:
        if noun in MALE:
            return PEOPLE - FEMALE
        if noun in FEMALE:
            return PEOPLE - MALE
        return PEOPLE
    found = {noun, *noun.split()}
    for family in FAMILIES:
        if noun in family:
            found |= family
    return frozenset(found)


def has_side(text: str) -> bool:
    """Whether a mirrored image makes the text wrong."""
    return bool(re.search(r"\b(left|right)\b|\b(left|right)[- ]?(hand|most)", text.lower()))
