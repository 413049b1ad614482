"""The text normalisers of the VQA metrics, quirk for quirk, since a published number means one of them.

The building blocks (`strip_punctuation`, `fold_words`) follow the official VQA evaluation of 2015; the quirks noted
beside them are bugs that the field's numbers were made with, so they stay. `m4c` follows the EvalAI variant that
TextVQA made common.
"""

import re

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Treated one by one in this order; the period has a rule of its own."""

PERIODS_REMOVED = 32
"""The official script passes the flag `re.UNICODE` (32) where `re.sub` expects a count, so a 33rd period survives."""

NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
} | {"none": "0"}

ARTICLES = frozenset({"a", "an", "the"})

# The official table lists, for every contraction, its spellings with one apostrophe lost. Forms that begin with a
# capital ("I'm") are in that table too but can never match, because words are lower-cased first.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _spellings(contraction: str) -> list[str]:
    """Every way to lose exactly one apostrophe: "couldn't've" -> "couldnt've", "couldn'tve"."""
    return [contraction[:at] + contraction[at + 1 :] for at, letter in enumerate(contraction) if letter == "'"]


CONTRACTIONS = {spelling: form for form in _CONTRACTIONS.split() for spelling in _spellings(form)}
# The one entry that the official table has the wrong way round.
CONTRACTIONS["somebody'd"] = "somebodyd"

_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The official pattern begins with "(?!<=\d)", a misspelt look-behind that never fails: any period goes unless a digit
# follows it, which is why "3." becomes "3".
_PERIOD = re.compile(r"\.(?!\d)")


def tidy_space(text: str) -> str:
    r"""Newlines and tabs become spaces, the ends are stripped; done by every rule before anything else."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Remove marks that touch a space (every mark where a number has a thousands comma); others become a space.

    Both tests look at the text as it came in, not at what the earlier marks left of it, as in the official script.
    """
    has_thousands = _DIGIT_COMMA_DIGIT.search(text) is not None
    stripped = text
    for mark in PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if touches_space or has_thousands else " ")
    return _PERIOD.sub("", stripped, count=PERIODS_REMOVED)


def fold_words(text: str) -> str:
    """Lower-case, number words to digits ("none" too becomes "0"), articles dropped, lost apostrophes put back."""
    words = [NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa(text: str) -> str:
    """The official VQA normalisation of one answer: `strip_punctuation`, then `fold_words`."""
    return fold_words(strip_punctuation(tidy_space(text)))


def m4c(text: str) -> str:
    """EvalAI's normalisation as used for TextVQA: commas and question marks go first and a possessive is split off."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return fold_words(strip_punctuation(tidy_space(text)))


def minigpt4(text: str) -> str:
    """What MiniGPT-v2's evaluation scripts do to an answer: drop the unknown token, lower-case, strip."""
    return text.lower().replace("<unk>", "").strip()
