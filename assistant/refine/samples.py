"""From consented corrections to training samples, and the corrections that a person should look at instead."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.assistant.refine.pictures import upright
from fourfold.assistant.refine.record import Correction, text_of
from fourfold.assistant.refine.targets import NeedsReview, annotations, control_token, target_of, task_of
from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn
from fourfold.prompts.tasks import Task, instruction

_MOST_TURNS = 6  # about one image in one sample
_NO_CHOICE = frozenset(("yes", "no", "none"))  # "yes or no?" asks for nothing that the question did not


@dataclass(frozen=True)
class Doubt:
    """A correction that is not learnt from until a person has looked at it.

    Attributes:
        id: of the correction.
        reason: what is wrong with it, in one line.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class TrainingTarget:
    """What one correction teaches.

    Attributes:
        correction: the record.
        question: as the model reads it.
        answer: as the model should write it; None where only annotations are taught.
        turns: the answer first, then what is derived from it.
        history: what was said before.
    """

    correction: Correction
    question: str
    answer: str | None
    turns: tuple[Turn, ...]
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Lessons:
    """All that a store of corrections teaches.

    Attributes:
        corrected: of answers that were wrong.
        kept: of answers that were said to be right.
        doubts: not learnt from.
        verdicts: how many records only say that an answer was wrong, from which nothing follows.
    """

    corrected: tuple[TrainingTarget, ...] = ()
    kept: tuple[TrainingTarget, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    verdicts: int = 0


@dataclass(frozen=True)
class StoredImage(ImageRef):
    """An image of a correction store; `id` is its hash.

    Attributes:
        read: gives the file's bytes for the hash.
    """

    read: Callable[[str], bytes] = field(default=lambda id: b"", compare=False, repr=False)

    def open(self) -> Image.Image:
        """The pixels, RGB, upright as the server shows them to the model."""
        return upright(self.read(self.id))


def lessons_of(
    corrections: Iterable[Correction], *, contrast: bool = True, annotated: bool = True, seed: int = 0
) -> Lessons:
    """What the consented ones among `corrections` teach.

    Args:
        corrections: in any order; those without consent are passed over.
        contrast: derive "red or blue?" where an answer was corrected by one word.
        annotated: derive `[identify]` and `[refer]` questions from corrected boxes with words.
        seed: of the order in which a contrast names its two words.
    """
    found: list[TrainingTarget] = []
    doubts: list[Doubt] = []
    verdicts = 0
    for correction in corrections:
        if not correction.consent:
            continue
        if correction.verdict == "down" and correction.chosen is None and correction.boxes is None:
            verdicts += 1
            continue
        try:
            found.append(_lesson(correction, contrast, annotated, seed))
        except NeedsReview as doubt:
            doubts.append(Doubt(correction.id, str(doubt)))
    agreed, contradictions = _agreed(found)
    return Lessons(
        corrected=tuple(lesson for lesson in agreed if lesson.correction.verdict == "down"),
        kept=tuple(lesson for lesson in agreed if lesson.correction.verdict == "up"),
        doubts=tuple(sorted([*doubts, *contradictions], key=lambda doubt: doubt.id)),
        verdicts=verdicts,
    )


def samples_of(lessons: Sequence[TrainingTarget], read: Callable[[str], bytes]) -> list[Sample]:
    """Training samples: what is taught about one image shares a sample, unless it was said in a conversation.

    Args:
        lessons: to teach.
        read: gives an image file's bytes for its hash.
    """
    alone: dict[str, list[Turn]] = defaultdict(list)
    samples = []
    for lesson in lessons:
        direct = lesson.turns[: lesson.answer is not None]
        if lesson.history and direct:
            image = StoredImage(lesson.correction.image, read=read)
            samples.append(Sample(image, direct, history=lesson.history))
            direct = ()
        derived = lesson.turns[lesson.answer is not None :]
        alone[lesson.correction.image] += [*direct, *derived]
    for image_id, turns in alone.items():
        once = list({(turn.question, turn.answer): turn for turn in turns}.values())
        image = StoredImage(image_id, read=read)
        samples += [Sample(image, tuple(once[i : i + _MOST_TURNS])) for i in range(0, len(once), _MOST_TURNS)]
    return samples


def plain(text: str) -> str:
    """A text for comparing: lower case, without punctuation at its ends, single spaces."""
    return re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?\"'")


def _lesson(correction: Correction, contrast: bool, annotated: bool, seed: int) -> TrainingTarget:
    history, question = _conversation(correction)
    answer = target_of(correction)
    rejected = correction.rejected.strip()
    task = task_of(question) or Task.VQA
    turns: list[Turn] = []
    if answer is not None:
        if correction.verdict == "down" and plain(answer) == plain(rejected):
            raise NeedsReview("the right answer is the one that was rejected")
        facts = {"kind": "correction", "id": correction.id}
        worse = rejected if correction.verdict == "down" and rejected and not control_token(rejected) else None
        turns.append(Turn(task, question, answer, _boxes_of(answer), facts, rejected=worse))
        if contrast and worse is not None and (turn := contrast_turn(task, question, answer, worse, seed)):
            turns.append(turn)
    if annotated:
        turns += _annotation_turns(correction, question)
    if not turns:
        raise NeedsReview("its boxes have no words, and the answer has no place for boxes")
    return TrainingTarget(correction, question, answer, tuple(turns), history)


def contrast_turn(task: Task, question: str, answer: str, rejected: str, seed: int) -> Turn | None:
    """Asks for the one word by which two answers differ: "what colour is the ball, red or blue?".

    Returns:
        None where they differ by more than a word, or by yes and no.
    """
    right, wrong = plain(answer).split(), plain(rejected).split()
    places = [i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b]
    if len(right) != len(wrong) or len(places) != 1 or "<" in answer + rejected:
        return None
    better, worse = right[places[0]], wrong[places[0]]
    if {better, worse} & _NO_CHOICE:
        return None
    pair = [better, worse]
    random.Random(f"contrast {seed} {question} {better} {worse}").shuffle(pair)
    choice = " or ".join(pair)
    if len(right) == 1:
        asked = f"{question.rstrip(' ?')}, {choice}?"
    else:
        gap = " ".join([*right[: places[0]], "...", *right[places[0] + 1 :]])
        asked = instruction(Task.VQA, f"which word fits, {choice}: {gap}")
    return Turn(Task.VQA if len(right) > 1 else task, asked, better, facts={"kind": "contrast"}, rejected=worse)


def _annotation_turns(correction: Correction, question: str) -> list[Turn]:
    """Boxes with words as language: what is in the box, and where the thing is."""
    marked = annotations(correction)
    words = [plain(one.phrase or "") for one in marked]
    turns = []
    for one, phrase in zip(marked, words, strict=True):
        if control_token(phrase) or parse(phrase).phrases or len(phrase.split()) > 8:
            continue
        box, facts = format_box(one.box), {"kind": "annotation"}
        bare = re.sub(r"^(a|an|the) ", "", phrase)
        asked = instruction(Task.IDENTIFY, box)
        turns.append(Turn(Task.IDENTIFY, asked, bare, (one.box,), facts))
        if words.count(phrase) == 1:  # the place of one of two dogs is no answer to "where is the dog?"
            asked = instruction(Task.REFER, f"the {bare}")
            if asked != question:
                turns.append(Turn(Task.REFER, asked, box, (one.box,), facts))
    return turns


def _boxes_of(answer: str) -> tuple[Box, ...]:
    return tuple(box for grounded in parse(answer).phrases for box in grounded.boxes)


def _conversation(correction: Correction) -> tuple[tuple[tuple[str, str], ...], str]:
    """What was said before, in pairs, and the question. System messages are left out.

    Raises:
        NeedsReview: the conversation has another form than the model was taught: an image, then question and answer in
            turn.
    """
    said = [message for message in correction.messages if message["role"] != "system"]
    texts = [text_of(message).strip() for message in said]
    if found := next((token for text in texts if (token := control_token(text))), None):
        raise NeedsReview(f"the conversation holds the control token {found}")
    images = [
        (place, number)
        for place, message in enumerate(said)
        if not isinstance(message["content"], str)
        for number, part in enumerate(message["content"])
        if part["type"] == "image"
    ]
    if len(images) != 1 or images[0][0] != 0:
        raise NeedsReview("the image is shown twice, or not at the beginning of the conversation")
    roles = [message["role"] for message in said]
    if roles != ["user", "assistant"] * (len(said) // 2) + ["user"] or not all(texts):
        raise NeedsReview("the conversation is not question and answer in turn")
    return tuple(zip(texts[0:-1:2], texts[1:-1:2], strict=True)), texts[-1]


def _agreed(lessons: Sequence[TrainingTarget]) -> tuple[list[TrainingTarget], list[Doubt]]:
    """Each question about an image once, and those that were answered in different ways."""
    groups: dict[tuple, list[TrainingTarget]] = defaultdict(list)
    for lesson in lessons:
        said = tuple((plain(question), plain(answer)) for question, answer in lesson.history)
        groups[lesson.correction.image, said, plain(lesson.question)].append(lesson)
    agreed, doubts = [], []
    for same in groups.values():
        answers = {plain(lesson.answer) for lesson in same if lesson.answer is not None}
        if len(answers) > 1:
            ids = [lesson.correction.id for lesson in same]
            for lesson in same:
                others = ", ".join(id for id in ids if id != lesson.correction.id)
                doubts.append(Doubt(lesson.correction.id, f"contradicts {others}: same image, same question"))
        else:
            agreed.append(max(same, key=lambda lesson: (lesson.answer is not None, lesson.correction.created)))
    return agreed, doubts
