"""What a question asks: its task, the thing that it is about, and whether another one asks the same."""

import re

from fourfold.assistant.english import singular, words_in
from fourfold.prompts.tasks import INSTRUCTIONS, Task, task_of

# Words that a question can do without. Those that decide what is asked stay: how many, which colour, left of.
_IDLE = words_in(
    "a an the this that these those it its they them there here is are was were be been being am do does did has have "
    "had can could would will shall may might what which please tell me say give show you your i see we of at to for "
    "from with by and shown visible seen any some as so just exactly then also"
)
_SAME = {"color": "colour", "coloured": "colour", "colored": "colour", "grey": "gray"}
_PUT_DIFFERENTLY = (
    (re.compile(r"\b((in|on|at|of) )?(the|this|that) (image|picture|photo|photograph|scene)\b"), " "),
    (re.compile(r"\b(on|at|in) (?=(the )?(left|right|top|bottom)\b)"), " "),
    (re.compile(r"\bhow much\b"), "how many"),
    (re.compile(r"\bwhat (is|are) the (number|count) of\b"), "how many"),
    (re.compile(r"\bcount( of)?\b"), "how many"),
    (re.compile(r"\bwhat'?s\b"), "what is"),
)


def asked_phrase(question: str) -> str | None:
    """What a `[refer]` or `[detection]` question is about, "the dog" in "[refer] where is the dog?"."""
    task = task_of(question)
    if task not in (Task.REFER, Task.DETECTION):
        return None
    words = question.strip().removeprefix(task.tag).strip()
    for form in INSTRUCTIONS[task]:
        before, _, after = form.partition("{text}")
        if words.startswith(before) and words.endswith(after) and len(words) > len(before) + len(after):
            return words[len(before) : len(words) - len(after)].strip()
    return words or None


def same_question(one: str, other: str) -> bool:
    """Whether two questions ask for the same thing: the same task, and the same words that matter in the same order.

    A task tag stands for itself; a question without one is asked as `[vqa]`. Instructions of one task's pool are one
    question. Strict on purpose: "left of" against "right of" is one word among ten, and turns the answer round.
    """
    return _read(one) == _read(other)


# What another sentence must have named before: "and its colour?", "how many of them?", "the other one".
_POINTS_BACK = words_in(
    "it its itself they them their theirs he him his she her hers one ones another other others else same both either "
    "neither former latter again instead too also then why"
)
_THE_PICTURE = words_in("this here see shown visible picture image photo photograph scene")
_ASK_WITHOUT_A_THING = words_in("how many much what which who whose where when colour kind sort side left right")


def stands_alone(question: str) -> bool:
    """Whether a question can be understood without what was said before: it names a thing, and points back to nothing.

    Strict on purpose: what was corrected in the middle of a conversation is given back at its beginning too.
    """
    task, text = asked(question)
    words = re.findall(r"[^\W\d_]+", text.lower())
    if task is not Task.VQA:
        return not _POINTS_BACK & set(words)
    if _POINTS_BACK & set(words) or words[:1] in (["and"], ["but"], ["or"], ["so"]):
        return False
    asks = _read(question)[1]
    named = {singular(word) for word in asks if not word.isdigit()} - _ASK_WITHOUT_A_THING
    return bool(named) or (not asks and bool(_THE_PICTURE & set(words)))  # "what is this?"


def asked(question: str) -> tuple[Task, str]:
    """The task of a question, and what it asks, in one spelling, without tag and instruction ("": no more)."""
    task = task_of(question) or Task.VQA
    text = question.strip().removeprefix(task.tag).strip()
    if text in INSTRUCTIONS[task]:
        return task, ""
    text = asked_phrase(question) or text
    if task is Task.VQA:
        for form in INSTRUCTIONS[task]:
            before, _, after = form.partition("{text}")
            if before and text.startswith(before):
                text = text.removeprefix(before).removesuffix(after)
    return task, re.sub(r"[^\W\d_]+", lambda word: _SAME.get(word[0], word[0]), text.lower())


def _read(question: str) -> tuple[Task, list[str]]:
    """The task, and the words that matter in their order."""
    task, text = asked(question)
    for pattern, words in _PUT_DIFFERENTLY:
        text = pattern.sub(words, text)
    found = re.findall(r"[^\W\d_]+|\d+", text.replace("'s ", " "))
    return task, [singular(word) for word in found if word not in _IDLE]
