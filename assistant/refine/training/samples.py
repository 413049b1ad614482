"""From consented corrections to training samples, and the corrections that a person should look at instead."""

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from fourfold.assistant.grounding import format_box, parse
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.record import Correction, text_of, to_fields
from fourfold.assistant.refine.targets import NeedsReview, annotations, control_token, target_of
from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn
from fourfold.prompts.tasks import Task, instruction, task_of

_LEAST_TO_SPLIT = 4  # images; of fewer none can be spared
_MOST_TURNS = 6  # about one image in one sample
_NO_CHOICE = frozenset(("yes", "no", "none"))  # "yes or no?" asks for nothing that the question did not


@dataclass(frozen=True)
class ReviewItem:
    """A correction that is not learnt from until a person has looked at it, and why, in one line."""

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
class TrainingSet:
    """All that a store of corrections teaches.

    Attributes:
        corrected: of answers that were wrong.
        kept: of answers that were said to be right.
        to_review: not learnt from.
        verdicts: how many records only say that an answer was wrong, from which nothing follows.
    """

    corrected: tuple[TrainingTarget, ...] = ()
    kept: tuple[TrainingTarget, ...] = ()
    to_review: tuple[ReviewItem, ...] = ()
    verdicts: int = 0


@dataclass(frozen=True)
class StoredImage(ImageRef):
    """An image of a correction store; `id` is its hash, for which `read` gives the file."""

    read: Callable[[str], Attachment] = field(compare=False, repr=False, kw_only=True)

    def open(self) -> Image.Image:
        """The pixels, RGB, upright as the server shows them to the model."""
        return self.read(self.id).decode()


def training_set_of(
    corrections: Iterable[Correction], *, contrast: bool = True, annotated: bool = True, seed: int = 0
) -> TrainingSet:
    """What the consented ones among `corrections` teach.

    Args:
        corrections: in any order; those without consent are passed over.
        contrast: derive "red or blue?" where an answer was corrected by one word.
        annotated: derive `[identify]` and `[refer]` questions from corrected boxes with words.
        seed: of the order in which a contrast names its two words.
    """
    found: list[TrainingTarget] = []
    to_review: list[ReviewItem] = []
    verdicts = 0
    for correction in corrections:
        if not correction.consent:
            continue
        if correction.verdict == "down" and correction.chosen is None and correction.boxes is None:
            verdicts += 1
            continue
        try:
            found.append(_target(correction, contrast, annotated, seed))
        except NeedsReview as reason:
            to_review.append(ReviewItem(correction.id, str(reason)))
    agreed, contradictions = _agreed(found)
    return TrainingSet(
        corrected=tuple(target for target in agreed if target.correction.verdict == "down"),
        kept=tuple(target for target in agreed if target.correction.verdict == "up"),
        to_review=tuple(sorted([*to_review, *contradictions], key=lambda item: item.id)),
        verdicts=verdicts,
    )


def samples_of(targets: Sequence[TrainingTarget], read: Callable[[str], Attachment]) -> list[Sample]:
    """Training samples: what is taught about one image shares a sample, unless it was said in a conversation.

    `read` gives an image file for its hash.
    """
    alone: dict[str, list[Turn]] = defaultdict(list)
    samples = []
    for target in targets:
        direct = target.turns[: target.answer is not None]
        if target.history and direct:
            image = StoredImage(target.correction.image, read=read)
            samples.append(Sample((image,), direct, history=target.history))
            direct = ()
        derived = target.turns[target.answer is not None :]
        alone[target.correction.image] += [*direct, *derived]
    for image_id, turns in alone.items():
        once = list({(turn.question, turn.answer): turn for turn in turns}.values())
        image = StoredImage(image_id, read=read)
        samples += [Sample((image,), tuple(once[i : i + _MOST_TURNS])) for i in range(0, len(once), _MOST_TURNS)]
    return samples


@dataclass(frozen=True)
class Split:
    """Targets on two sides; no image is on both."""

    learnt: tuple[TrainingTarget, ...]
    held_out: tuple[TrainingTarget, ...]


def split_by_image(targets: Sequence[TrainingTarget], held_out: float) -> Split:
    """Leave the targets of a part of the images out.

    Images are ordered by their hash and the first of them left out, so that a new correction hardly ever changes the
    side of an old one, and an image that was left out of one training is left out of the next.

    Args:
        targets: of corrected answers.
        held_out: part of the images, 0..1; of fewer than four images none is left out.
    """
    order = sorted(
        {target.correction.image for target in targets}, key=lambda image: hashlib.sha256(image.encode()).digest()
    )
    kept = round(held_out * len(order)) if len(order) >= _LEAST_TO_SPLIT else 0
    out = frozenset(order[:kept])
    return Split(
        learnt=tuple(target for target in targets if target.correction.image not in out),
        held_out=tuple(target for target in targets if target.correction.image in out),
    )


def data_hash(corrections: Sequence[Correction]) -> str:
    """SHA-256 (hex) of all that is learnt from these records, whatever their order; ids and times do not count."""
    rows = []
    for correction in corrections:
        fields = to_fields(correction)
        taught = {name: fields[name] for name in ("messages", "rejected", "chosen", "boxes", "verdict")}
        rows.append(json.dumps({"image": correction.image, **taught}, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def plain(text: str) -> str:
    """A text for comparing: lower case, without punctuation at its ends, single spaces."""
    return re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?\"'")


def _target(correction: Correction, contrast: bool, annotated: bool, seed: int) -> TrainingTarget:
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
        turns.append(Turn(task, question, answer, parse(answer).boxes, facts, rejected=worse))
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


def _agreed(targets: Sequence[TrainingTarget]) -> tuple[list[TrainingTarget], list[ReviewItem]]:
    """Each question about an image once, and those that were answered in different ways."""
    groups: dict[tuple, list[TrainingTarget]] = defaultdict(list)
    for target in targets:
        said = tuple((plain(question), plain(answer)) for question, answer in target.history)
        groups[target.correction.image, said, plain(target.question)].append(target)
    agreed, to_review = [], []
    for same in groups.values():
        answers = {plain(target.answer) for target in same if target.answer is not None}
        if len(answers) > 1:
            ids = [target.correction.id for target in same]
            for target in same:
                others = ", ".join(id for id in ids if id != target.correction.id)
                to_review.append(ReviewItem(target.correction.id, f"contradicts {others}: same image, same question"))
        else:
            agreed.append(max(same, key=lambda target: (target.answer is not None, target.correction.created)))
    return agreed, to_review
