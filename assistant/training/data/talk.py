"""Talk about an answer: doubts, hints, being told, and questions that mean with "it" what was spoken of before.

Each turn brings the exchanges that came before it, of which nothing is learnt. Doubted answers are as often right as
wrong, so that only the picture tells whether to stay with one.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from fourfold.assistant.english import COLOURS, is_counted, singular, with_article
from fourfold.assistant.training.data.sample import Turn
from fourfold.assistant.training.data.scenes import PALETTE, SHAPES
from fourfold.prompts.tasks import Task, with_tag

TALKED_OF = ("existence", "colour", "count", "what", "identify", "relation", "annotated", "refer")
"""Sorts of questions that can be talked about: those with short answers, and where something is."""

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
    "That is wrong, it is {}.",
    "It should be {}.",
    "Actually it is {}.",
    "You are wrong: {}.",
)
_TELLINGS_YES_NO = (
    "No, the answer is {}.",
    "That is wrong, the answer is {}.",
    "The answer should be {}.",
    "Actually the answer is {}.",
    "You are wrong: {}.",
)
_AGAIN = ("So, what is it?", "What is your answer now?", "So what do you say?")
_LETTER_HINTS = (
    "Hint: it starts with {!r}.",
    "No. The first letter is {!r}.",
    "Try again, the word begins with {!r}.",
    "Not quite. Its first letter is {!r}, try again.",
)
_NOT_HINTS = ("Not {}. Try again.", "It is not {}.", "No, not {}. Have another guess.")
_History = tuple[tuple[str, str], ...]  # questions and answers
_THINGS = ("dog", "man", "car", "ball", "woman", "boy", "bench", "tree", "horse", "table", "bicycle", "bird")
_TAGGED = 0.3  # part of what the person says behind the tag, as scripts do


def talk_about(turn: Turn, others: Sequence[str], rng: random.Random) -> Turn | None:
    """A later turn of a conversation that began with `turn`; None where its answer is too long to talk about.

    Args:
        turn: a question with a short answer.
        others: answers to other questions about the same picture, for a wrong one that is plausible.
        rng: chooses what happens, and the words.
    """
    if turn.task is Task.REFER:
        return _where_it_is(turn, rng)
    if turn.task not in (Task.VQA, Task.IDENTIFY) or len(turn.answer.split()) > 3 or "," in turn.answer:
        return None
    if turn.facts["kind"] == "text":
        return None  # a written word is told or hinted at by no other thing
    kinds: list[Callable[[], Turn | None]] = [
        lambda: _doubted(turn, turn.answer, rng),
        lambda: _doubted(turn, wrong_answer(turn, others, rng), rng),
        lambda: _told(turn, _wrongly(turn, others, rng), rng),
        lambda: _hinted(turn, _wrongly(turn, others, rng), rng),
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
    if (words := right.split())[-1] in SHAPES:  # of a scene: "star", or "red star"
        shape = rng.choice([shape for shape in SHAPES if shape != words[-1]])
        if len(words) == 1:
            return shape
        colour = rng.choice([colour for colour in PALETTE if colour != words[0]])
        return rng.choice((f"{colour} {words[-1]}", f"{words[0]} {shape}"))
    if right in COLOURS:
        return rng.choice([colour for colour in COLOURS[:8] if colour != right])
    names = {right, *(str(name).lower() for name in turn.facts.get("names", ()))}
    there = [other for other in others if other.lower() not in names and _is_name(other)]
    return rng.choice(there or [thing for thing in _THINGS if thing not in names])


def _is_name(text: str) -> bool:
    usual = text.lower() not in ("yes", "no", *COLOURS) and not text.isdigit() and len(text.split()) <= 3
    return usual and not set("{,") & set(text) and not text.isupper()  # no box, no list, no written word


def _doubted(turn: Turn, said: str, rng: random.Random) -> Turn:
    return _later(turn, "doubt", ((turn.question, said),), rng.choice(_DOUBTS), rng)


def _told(turn: Turn, before: _History, rng: random.Random) -> Turn:
    """Told the answer: it is taken, at once or when the same is asked again."""
    forms = _TELLINGS_YES_NO if turn.answer.lower() in ("yes", "no") else _TELLINGS
    telling = rng.choice(forms).format(_as_noun(turn, turn.answer))
    if rng.random() < 0.5:
        return _later(turn, "told", before, f"{telling} {rng.choice(_AGAIN)}", rng)
    before = (*before, (_spoken(telling, rng), turn.answer))
    return replace(turn, history=before, facts={**turn.facts, "kind": "talk", "move": "told"})


def _hinted(turn: Turn, before: _History, rng: random.Random) -> Turn:
    said = before[-1][1]
    if turn.answer.isdigit():
        hint = "There are more." if int(turn.answer) > int(said) else "There are fewer."
    elif rng.random() < 0.6 or turn.answer.lower() in ("yes", "no"):
        hint = rng.choice(_LETTER_HINTS).format(turn.answer[0])
    else:
        hint = rng.choice(_NOT_HINTS).format(_as_noun(turn, said))
    return _later(turn, "hint", before, hint, rng)


def _wrongly(turn: Turn, others: Sequence[str], rng: random.Random) -> _History:
    """A wrong answer, and sometimes another one, or the same, after it was doubted."""
    said = wrong_answer(turn, others, rng)
    before: _History = ((turn.question, said),)
    if rng.random() < 0.4:
        again = said if rng.random() < 0.5 else wrong_answer(turn, others, rng)
        before = (*before, (_spoken(rng.choice(_DOUBTS), rng), again))
    return before


def _as_noun(turn: Turn, answer: str) -> str:
    """`a dog` for `dog` where the answer names a thing: "it is a dog"; other answers stay as they are."""
    last = answer.lower().rpartition(" ")[2]
    shape = last in SHAPES and answer.lower() == last  # "what shape is red?"
    if turn.facts["kind"] not in ("what", "identify") or answer.lower() in ("yes", "no", *COLOURS) or shape:
        return answer
    if answer.isdigit() or not is_counted(last) or singular(last) != last or answer.startswith(("a ", "an ", "the ")):
        return answer
    return with_article(answer)


def _meant_by_it(turn: Turn, rng: random.Random) -> Turn | None:
    """What colour "it" is, after its presence was spoken of."""
    if turn.facts["kind"] != "colour" or not isinstance(thing := turn.facts.get("object"), str):
        return None
    if f"is the {thing}" not in turn.question:
        return None  # several: "what colour are the trousers?"
    question = _spoken(f"is there {with_article(thing)}?", rng)
    asked = rng.choice(("what colour is it?", "what color is it?", "and its colour?"))
    return _later(turn, "it", ((question, "yes"),), asked, rng)


def _where_it_is(turn: Turn, rng: random.Random) -> Turn | None:
    """Where "it" is, after its presence was spoken of."""
    phrase = str(turn.facts.get("phrase", ""))
    if phrase.startswith(("a ", "an ")):
        thing = phrase
    elif len(phrase.split()) == 1 or phrase.rpartition(" ")[2] in SHAPES:
        thing = with_article(phrase)
    else:
        return None  # "his left hand"
    question = _spoken(f"is there {thing}?", rng)
    asked = rng.choice(("where is it?", "show me where it is", "point to it", "where?"))
    asked = with_tag(Task.REFER, asked) if rng.random() < 0.5 else asked
    return replace(
        turn, question=asked, history=((question, "yes"),), facts={**turn.facts, "kind": "talk", "move": "it"}
    )


def _later(turn: Turn, move: str, history: _History, words: str, rng: random.Random) -> Turn:
    facts = {**turn.facts, "kind": "talk", "move": move}
    return replace(turn, task=Task.VQA, question=_spoken(words, rng), history=history, facts=facts)


def _spoken(words: str, rng: random.Random) -> str:
    return with_tag(Task.VQA, words) if rng.random() < _TAGGED else words
