"""Talk about an answer: doubts, hints, being told, and questions that mean with "it" what was spoken of before.

Each turn brings the exchanges that came before it, of which nothing is learnt. Doubted answers are as often right as
wrong, so that only the picture tells whether to stay with one.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from fourfold.assistant.english import COLOURS, with_article
from fourfold.assistant.training.data.sample import Turn
from fourfold.prompts.tasks import Task, with_tag

TALKED_OF = ("existence", "colour", "count", "what", "identify", "relation", "annotated")
"""Sorts of questions whose short answers can be doubted."""

# None of them in the words of the scripted user of `eval converse`, by which it is measured.
_DOUBTS = (
    "Are you sure?",
    "Are you sure about that? Please check.",
    "Really?",
    "I doubt that. Look once more.",
    "No, look again.",
    "I do not think so. Have another look.",
    "That seems wrong to me. What do you see?",
    "Hmm, check the picture again.",
)
_TELLINGS = (
    "No, it is {}.",
    "That is wrong, the answer is {}.",
    "It should be {}.",
    "Actually it is {}.",
    "You are wrong: {}.",
)
_AGAIN = ("So, what is it?", "What is your answer now?", "So what do you say?")
_LETTER_HINTS = (
    "Hint: it starts with {!r}.",
    "No. The first letter is {!r}.",
    "Try again, the word begins with an {!r}.",
)
_NOT_HINTS = ("Not {}. Try again.", "It is not {}.", "{} is wrong, have another guess.")
_THINGS = ("dog", "man", "car", "ball", "woman", "boy", "bench", "tree", "horse", "table", "bicycle", "bird")
_TAGGED = 0.3  # part of what the person says behind the tag, as scripts do


def talk_about(turn: Turn, others: Sequence[str], rng: random.Random) -> Turn | None:
    """A later turn of a conversation that began with `turn`; None where its answer is too long to talk about.

    Args:
        turn: a question with a short answer.
        others: answers to other questions about the same picture, for a wrong one that is plausible.
        rng: chooses what happens, and the words.
    """
    if turn.task not in (Task.VQA, Task.IDENTIFY) or len(turn.answer.split()) > 3:
        return None
    kinds: list[Callable[[], Turn | None]] = [
        lambda: _doubted(turn, turn.answer, rng),
        lambda: _doubted(turn, wrong_answer(turn, others, rng), rng),
        lambda: _told(turn, wrong_answer(turn, others, rng), rng),
        lambda: _hinted(turn, wrong_answer(turn, others, rng), rng),
        lambda: _meant_by_it(turn, rng),
    ]
    rng.shuffle(kinds)
    return next((made for kind in kinds if (made := kind()) is not None), None)


def wrong_answer(turn: Turn, others: Sequence[str], rng: random.Random) -> str:
    """A wrong answer of the sort of the right one: the other of yes and no, another number, another colour or thing."""
    right = turn.answer.lower()
    if right in ("yes", "no"):
        return "no" if right == "yes" else "yes"
    if right.isdigit():
        return str(
            rng.choice([number for number in range(max(0, int(right) - 2), int(right) + 3) if number != int(right)])
        )
    if right in COLOURS:
        return rng.choice([colour for colour in COLOURS[:8] if colour != right])
    names = {right, *(str(name).lower() for name in turn.facts.get("names", ()))}
    there = [other for other in others if other.lower() not in names and _is_name(other)]
    return rng.choice(there or [thing for thing in _THINGS if thing not in names])


def _is_name(text: str) -> bool:
    return text.lower() not in ("yes", "no", *COLOURS) and not text.isdigit() and len(text.split()) <= 3


def _doubted(turn: Turn, said: str, rng: random.Random) -> Turn:
    return _later(turn, ((turn.question, said),), rng.choice(_DOUBTS), rng)


def _told(turn: Turn, said: str, rng: random.Random) -> Turn:
    """Told the answer: it is taken, at once or when the same is asked again."""
    telling = rng.choice(_TELLINGS).format(turn.answer)
    if rng.random() < 0.5:
        return _later(turn, ((turn.question, said),), f"{telling} {rng.choice(_AGAIN)}", rng)
    before = ((turn.question, said), (_spoken(telling, rng), turn.answer))
    return replace(turn, history=before, facts={**turn.facts, "kind": "talk"})


def _hinted(turn: Turn, said: str, rng: random.Random) -> Turn | None:
    if turn.answer.lower() in ("yes", "no"):
        return None  # any hint would be the answer
    if turn.answer.isdigit():
        hint = "There are more." if int(turn.answer) > int(said) else "There are fewer."
    elif rng.random() < 0.5:
        hint = rng.choice(_LETTER_HINTS).format(turn.answer[0])
    else:
        hint = rng.choice(_NOT_HINTS).format(said)
    return _later(turn, ((turn.question, said),), f"{hint[:1].upper()}{hint[1:]}", rng)


def _meant_by_it(turn: Turn, rng: random.Random) -> Turn | None:
    """What colour "it" is, after its presence was spoken of."""
    if turn.facts["kind"] != "colour" or not isinstance(thing := turn.facts.get("object"), str):
        return None
    if f"is the {thing}" not in turn.question:
        return None  # several: "what colour are the trousers?"
    question = _spoken(f"is there {with_article(thing)}?", rng)
    asked = rng.choice(("what colour is it?", "what color is it?", "and its colour?"))
    return _later(turn, ((question, "yes"),), asked, rng)


def _later(turn: Turn, history: tuple[tuple[str, str], ...], words: str, rng: random.Random) -> Turn:
    question = _spoken(words, rng)
    return replace(turn, task=Task.VQA, question=question, history=history, facts={**turn.facts, "kind": "talk"})


def _spoken(words: str, rng: random.Random) -> str:
    return with_tag(Task.VQA, words) if rng.random() < _TAGGED else words
