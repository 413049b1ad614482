"""What is said without a picture, or beside one without asking about it: greetings, what the assistant is, and a little
general knowledge; and what to answer to a question about a picture that nobody gave. All answers are plain words.
"""

import random
from dataclasses import replace
from functools import cache

from fourfold.assistant.english import NUMBERS, with_article
from fourfold.assistant.training.data.sample import Turn
from fourfold.prompts.tasks import Task, with_tag

_ME = "I am Fourfold, a small assistant that looks at pictures, points at things, and learns from corrections."
_CAN = (
    "I can describe a picture, answer questions about it, point at things in it and say what is in a box. "
    "When I am wrong, correct me, and I learn from it."
)
_HELLO = "Hello! Add a picture and ask me about it."
_HELLO_THERE = "Hello! What would you like to know about the picture?"
_WELCOME = "You are welcome."
_BYE = "Goodbye!"
_READY = "I am ready to look at a picture. What would you like to know?"
_NO_PICTURE = "There is no picture here. Please add one and ask again."

_GREETINGS = (
    "hi", "hello", "hello there", "hey", "hi there", "good morning", "good afternoon", "good evening", "greetings",
    "hello, assistant", "hey there", "good day",
)  # fmt: skip
_THANKS = (
    "thanks", "thank you", "thank you very much", "thanks a lot", "great, thanks", "ok, thank you", "many thanks",
    "thanks, that helps", "perfect, thank you",
)  # fmt: skip
_BYES = ("bye", "goodbye", "see you", "bye bye", "see you later", "that is all, bye")
_HOW_ARE_YOU = ("how are you?", "how are you doing?", "how do you do?", "how is it going?")
_WHO = ("who are you?", "what are you?", "what is your name?", "tell me about yourself", "who am I talking to?")
_WHAT_CAN = (
    "what can you do?", "how can you help me?", "what can I ask you?", "help", "what are you good for?",
    "what do you do?", "how do I use you?",
)  # fmt: skip

# What people type about any picture. With a picture it is asked in these words too (`as_typed`), or the words alone
# would tell that there is none.
_OF_PICTURES = (
    "what is in the picture?", "what do you see?", "describe the picture", "describe this image briefly",
    "what does this picture show?", "what is in this image?", "tell me about this picture", "describe", "caption this",
    "tell me what is in this image", "what is happening in the picture?", "what can you see?", "what is going on here?",
    "give a short caption for this image", "look at the picture. what is it?", "what's happening here?",
    "describe this image in detail", "what is shown here?", "read the picture to me", "explain this photo",
)  # fmt: skip
_OF_PLACES = (
    "where is {}?", "find {}", "find {} in this image", "show me {}", "point to {}", "point at {}", "locate {}",
    "where can I see {}?", "mark {}", "can you find {}?",
)  # fmt: skip
_OF_THINGS = (
    "is there {a} in the picture?", "what colour is the {thing} in the picture?", "can you see {a}?",
    "how many {thing}s are there?", "is the {thing} on the left?", "what is the {thing} doing?",
)  # fmt: skip
_THINGS = (
    "dog", "cat", "car", "bicycle", "tree", "ball", "table", "chair", "bird", "horse", "boat", "house", "hat", "cup",
    "circle", "triangle", "square", "star", "sign", "bag",
)  # fmt: skip

_COLOURS = {
    "is grass": "green", "is snow": "white", "is milk": "white", "is coal": "black", "is blood": "red",
    "is chalk": "white", "are ripe bananas": "yellow", "are ripe strawberries": "red", "are carrots": "orange",
    "are lemons": "yellow", "are ravens": "black", "are flamingos": "pink", "are polar bears": "white",
    "are pine needles": "green", "are most frogs": "green", "is the sky on a clear day": "blue",
    "are ripe tomatoes": "red", "is spinach": "green", "is chocolate": "brown", "are peas": "green",
    "is rice": "white", "is the night sky": "black", "are swans": "white", "is soot": "black",
    "are sunflowers": "yellow", "is soil": "brown",
}  # fmt: skip
_OPPOSITES = (
    "hot cold", "big small", "up down", "left right", "open closed", "day night", "black white", "fast slow", "old new",
    "wet dry", "happy sad", "light dark", "full empty", "high low", "hard soft", "long short", "loud quiet",
    "near far", "rich poor", "strong weak", "thick thin", "true false", "early late", "clean dirty", "first last",
    "inside outside", "above below", "good bad", "easy difficult", "wide narrow", "deep shallow", "sharp blunt",
    "heavy light", "win lose", "push pull", "buy sell", "begin end", "give take", "love hate", "always never",
)  # fmt: skip
_CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Austria": "Vienna", "Poland": "Warsaw", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Denmark": "Copenhagen", "Ireland": "Dublin", "England": "London", "Hungary": "Budapest",
    "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasília", "Argentina": "Buenos Aires", "Peru": "Lima",
    "Chile": "Santiago", "Cuba": "Havana", "Turkey": "Ankara", "Russia": "Moscow", "Ukraine": "Kyiv",
    "Australia": "Canberra", "New Zealand": "Wellington", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "South Korea": "Seoul", "Belgium": "Brussels", "Romania": "Bucharest", "Bulgaria": "Sofia", "Croatia": "Zagreb",
    "Iceland": "Reykjavik", "Morocco": "Rabat", "the United States": "Washington", "Iran": "Tehran", "Iraq": "Baghdad",
}  # fmt: skip
_LEGS = {"dog": 4, "cat": 4, "horse": 4, "bird": 2, "chicken": 2, "spider": 8, "ant": 6, "bee": 6, "cow": 4}
_YOUNG = {
    "dog": "a puppy", "cat": "a kitten", "cow": "a calf", "horse": "a foal", "sheep": "a lamb", "hen": "a chick",
    "goat": "a kid", "duck": "a duckling", "lion": "a cub", "frog": "a tadpole",
}  # fmt: skip
_IN_ORDER = (
    ("day", ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")),
    ("month", (
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    )),
)  # fmt: skip
_GROUPS = {
    "a fruit": ("apple", "banana", "pear", "orange", "cherry", "grape", "plum"),
    "an animal": ("horse", "tiger", "rabbit", "elephant", "whale", "mouse", "eagle"),
    "a vehicle": ("car", "bus", "truck", "train", "bicycle", "tram", "van"),
    "a tool": ("hammer", "saw", "screwdriver", "drill", "spade", "wrench"),
}


@cache
def general_questions() -> tuple[tuple[str, str], ...]:
    """Questions that need no picture, with their short answers; every question once."""
    pairs: list[tuple[str, str]] = []
    pairs += [(f"what colour {thing}?", colour) for thing, colour in _COLOURS.items()]
    for one, other in (pair.split() for pair in _OPPOSITES):
        both = ((one, other), (other, one))
        # Light is the opposite of both dark and heavy, so it is not asked about.
        pairs += [(f"what is the opposite of {word}?", said) for word, said in both if word != "light"]
    pairs += [(f"what is the capital of {country}?", city) for country, city in _CAPITALS.items()]
    for a in range(1, 11):
        pairs += [(f"what is {a} plus {b}?", str(a + b)) for b in range(1, 11)]
        pairs += [(f"what is {a} minus {b}?", str(a - b)) for b in range(1, a + 1)]
        pairs += [(f"what is {a} times {b}?", str(a * b)) for b in range(2, 6)]
    pairs += [(f"how many legs does {with_article(animal)} have?", NUMBERS[legs]) for animal, legs in _LEGS.items()]
    pairs += [(f"what is a young {animal} called?", name) for animal, name in _YOUNG.items()]
    for name, row in _IN_ORDER:
        for place, one in enumerate(row):
            pairs.append((f"which {name} comes after {one}?", row[(place + 1) % len(row)]))
            pairs.append((f"which {name} comes before {one}?", row[place - 1]))
    for group, members in _GROUPS.items():
        pairs += [(f"is {with_article(one)} {group}?", "yes") for one in members]
        others = [one for other, names in _GROUPS.items() if other != group for one in names[:3]]
        pairs += [(f"is {with_article(one)} {group}?", "no") for one in others]
    return tuple(dict(pairs).items())


def without_picture(rng: random.Random) -> Turn:
    """A turn where there is no picture: a greeting, a general question, or a question about a picture nobody gave."""
    kind = rng.choices(("greeting", "general", "about a picture"), weights=(3, 3, 4))[0]
    if kind == "general":
        question, answer = rng.choice(general_questions())
    elif kind == "greeting":
        question, answer = _greeting(rng, _HELLO)
    else:
        question, answer = _about_a_picture(rng), _NO_PICTURE
    return _turn(question, answer, rng)


def beside_a_picture(rng: random.Random) -> Turn:
    """A turn that greets, thanks, or asks what the assistant is, where there is a picture."""
    question, answer = _greeting(rng, _HELLO_THERE)
    return _turn(question, answer, rng)


def _greeting(rng: random.Random, hello: str) -> tuple[str, str]:
    questions, answer = rng.choices(
        (
            (_GREETINGS, hello), (_THANKS, _WELCOME), (_BYES, _BYE), (_HOW_ARE_YOU, _READY), (_WHO, _ME),
            (_WHAT_CAN, _CAN),
        ),
        weights=(4, 4, 1, 1, 2, 2),
    )[0]  # fmt: skip
    return rng.choice(questions), answer


def as_typed(turn: Turn, rng: random.Random) -> Turn:
    """A caption or a place asked for in words that people type; any other turn as it is."""
    if turn.task is Task.CAPTION:
        question = rng.choice(_OF_PICTURES)
        question = with_tag(turn.task, question) if rng.random() < 0.2 else question
    elif turn.task is Task.REFER and (phrase := str(turn.facts.get("phrase", ""))):
        if phrase.split()[0] not in ("a", "an", "the", "his", "her", "their", "its") and rng.random() < 0.6:
            phrase = f"the {phrase}"
        bare = rng.random() < 0.25
        question = phrase if bare else rng.choice(_OF_PLACES).format(phrase)
        question = with_tag(turn.task, question) if bare or rng.random() < 0.3 else question
    else:
        return turn
    return replace(turn, question=_by_hand(question, rng))


def _about_a_picture(rng: random.Random) -> str:
    thing = rng.choice(_THINGS)
    kind = rng.randrange(4)
    if kind < 2:
        question, tag = rng.choice(_OF_PICTURES), Task.CAPTION
    elif kind == 2:
        question, tag = rng.choice(_OF_PLACES).format(f"the {thing}"), Task.REFER
    else:
        question, tag = rng.choice(_OF_THINGS).format(thing=thing, a=with_article(thing)), Task.VQA
    return with_tag(tag, question) if rng.random() < 0.2 else question


def _by_hand(question: str, rng: random.Random) -> str:
    """With a capital, with or without a sign at the end."""
    if rng.random() < 0.4:
        question = question[:1].upper() + question[1:]
    if rng.random() < 0.2:
        question = question.rstrip("?") if question.endswith("?") else f"{question}{rng.choice('.!')}"
    return question


def _turn(question: str, answer: str, rng: random.Random) -> Turn:
    return Turn(Task.VQA, _by_hand(question, rng), answer, facts={"kind": "small talk"})
