"""Reading the chosen option out of an answer, as the benchmarks' scripts and the two common harnesses do.

Every reader takes the answer and the options (letter -> text) and gives a letter, or None where it finds none.
"""

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Options = Mapping[str, str]


@dataclass(frozen=True)
class Choice:
    """The right answer of a question with options: its letter; or its words where there are none to choose from.

    Attributes:
        answer: the letter, or the answer in words.
        options: letter -> text, in order; {} for an open question.
        group: questions that count only together have one group (the turned copies of CircularEval).
    """

    answer: str
    options: Options = field(default_factory=dict)
    group: str = ""

    @property
    def text(self) -> str:
        """The right answer in words."""
        return self.options.get(self.answer, self.answer)


# VLMEvalKit (matching_util.py), without the judge model that it asks where this finds nothing.
_LOOSE_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_FAILED = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def vlmevalkit(answer: str, options: Options) -> str | None:
    """The only option letter among the answer's last four words, else the only option whose text the answer holds."""
    if _FAILED not in answer:
        if any(refusal in answer for refusal in _REFUSALS):
            return None
        words = answer.translate(_LOOSE_MARKS).split()
        said = [letter for letter in options if letter in words]
        if len(said) == 1 and words.index(said[0]) > len(words) - 5:
            return said[0]
        if not said and "Z" in words:  # its letter for "none of them"
            return None
    if len(answer) > 2 * sum(map(len, options.values())):
        return None
    lowered = answer.lower()
    held = [letter for letter, text in options.items() if text.lower() in lowered]
    return held[0] if len(held) == 1 else None


# lmms-eval (mcq_extract.py): ways of naming an option, the surest last, each with where it stands.
_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is",
    "the correct option is", "correct option is", "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
_FORMS = (("{} ", 2), ("{})", 3), ("{}:", 4), ("{}.", 5), ("({})", 6))


def lmms_eval(answer: str, options: Options) -> str | None:
    """The letter in the surest form: alone at the start, alone at the end, after "the answer is", (A), A., A:, A)."""
    text = answer.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    if not answer.strip():
        return None
    bare, padded = text.strip(), f" {text} "
    lowered = padded.lower()
    found: list[tuple[int, int, str]] = []  # how sure, where, which; the later one of equally sure ones is taken

    def add(weight: int, place: int, letter: str) -> None:
        if place >= 0:
            found.append((weight, place, letter))

    for form, weight in _FORMS:
        for letter in options:
            add(weight, padded.rfind(form.format(letter)), letter)
    for phrase in _PHRASES:
        if (at := lowered.find(phrase)) >= 0:
            for letter in options:
                add(7, padded.find(letter, at + len(phrase)), letter)
    for letter in options:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            add(10, 0, letter)
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            add(9, len(padded) - 1, letter)
    if not found:
        for letter in options:
            add(0, padded.rfind(letter), letter)
    return max(found)[2] if found else None


_AROUND = ("{}", "{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")


def mmbench_static(answer: str, options: Options) -> str | None:
    """lmms-eval's MMBench without a judge: the one letter that stands as a word, the one text, else its usual reader.

    "A" among more than three words is taken for an article, and the next way of writing is tried.
    """
    words = [] if _FAILED in answer else answer.split()
    for form in _AROUND:
        said = [letter for letter in "ABCDE" if form.format(letter) in words]
        if len(said) == 1 and not (form == "{}" and "A" in words and len(words) > 3):
            return said[0]
    lowered = answer.lower()
    held = [letter for letter, text in options.items() if text.lower() in lowered]
    return held[0] if len(held) == 1 else lmms_eval(answer, options)


def mmmu(answer: str, options: Options) -> str | None:
    """MMMU's own reading: the last of "(A)", else of "A ", else of "A."; in long answers else the last option text.

    Where it finds none MMMU's script draws one at random; here that is None.
    """
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    padded = f" {answer} "
    for form, counted in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        said = [letter for letter in options if form.format(letter) in padded]
        if said:
            # The script looks for the last one in a form of its own, in which it may not be there at all: the first.
            return max(said, key=lambda letter: padded.rfind(counted.format(letter)))
    if len(padded.split()) <= 5:
        return None
    lowered = padded.lower()
    held = [letter for letter, text in options.items() if text.lower() in lowered]
    return max(held, key=lambda letter: lowered.rfind(options[letter].lower())) if held else None


def llava(answer: str, options: Options) -> str | None:
    """ScienceQA as LLaVA scores it: the letter alone in any case, or a capital and a full stop at the start."""
    answer = answer.strip()
    if answer.upper() in options:
        return answer.upper()
    return answer[0] if answer[1:2] == "." and answer[0] in options else None


def ai2d(answer: str, options: Options) -> str | None:
    """AI2D in lmms-eval: a capital and a full stop at the start, or nothing but the letter and punctuation."""
    begins = re.match(r"\s*([A-Z])\.", answer)
    said = begins[1] if begins else answer
    said = said.lower().translate(_NO_PUNCTUATION)
    return next((letter for letter in options if letter.lower() == said), None)


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def seed_bench(answer: str, options: Options) -> str | None:
    """SEED-Bench in lmms-eval: the first character, in any case."""
    first = answer.strip()[:1].upper()
    return first if first in options else None


READERS: Mapping[str, Callable[[str, Options], str | None]] = {
    "vlmevalkit": vlmevalkit,
    "lmms_eval": lmms_eval,
    "mmbench_static": mmbench_static,
    "mmmu": mmmu,
    "llava": llava,
    "ai2d": ai2d,
    "seed_bench": seed_bench,
}
