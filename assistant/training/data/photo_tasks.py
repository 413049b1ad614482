"""What can be asked about a photo: every question of a task, with its answer and facts.

Each function lists the turns that a photo allows in a view. `rng` chooses the wording, among the pools of `prompts`;
without it the wording is canonical, as at inference.
"""

import random
from collections.abc import Sequence

from fourfold.assistant.english import (
    COLOURS,
    PEOPLE,
    colour_of,
    has_side,
    head_noun,
    is_counted,
    is_plural_only,
    number_of,
    plural,
    singular,
    with_article,
    words_in,
    words_of,
)
from fourfold.assistant.grounding import Box, format_box, format_phrase
from fourfold.assistant.training.data.existence import Existence
from fourfold.assistant.training.data.photos import EXHAUSTIVE, Photo, Thing, boxes_in, tidy_phrase
from fourfold.assistant.training.data.sample import WHOLE, Turn, View
from fourfold.prompts.tasks import INSTRUCTIONS, Task, instruction

ABSENT = "none"  # what detection answers where there is nothing to box
_MOST_BOXES = 6
_MOST_COUNTED = 9
# What part of the counts is asked for where a detector has counted too: most are one, and would teach to say so.
_KEPT_COUNTS = {"1": 0.03, "2": 0.35}
_ANIMALS = words_in("dog horse bird cat cow bull sheep goat duck monkey elephant zebra giraffe bear raccoon fish")


def ask(
    task: Task, text: str, answer: str, rng: random.Random | None, boxes: Sequence[Box] = (), **facts: object
) -> Turn:
    """A question, canonical or worded by one of the task's instructions, and its answer.

    Its kind is the task's name unless `facts` say another.
    """
    if rng is None or (task is Task.VQA and rng.random() < 0.75):  # vqa's second form is long and rarely typed
        question = instruction(task, text)
    else:
        question = instruction(task, text, index=rng.randrange(len(INSTRUCTIONS[task])))
    return Turn(task, question, answer, tuple(boxes), {"kind": task.value, **facts})


def captions(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """Plain captions."""
    written = tuple(map(photo.caption, range(len(photo.captions))))
    return [
        ask(Task.CAPTION, "", caption, rng, references=written)
        for i, caption in enumerate(written)
        if photo.caption_fits(i, view) and not (view.flip and has_side(photo.captions[i]))
    ]


def grounded_captions(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """Captions whose phrases carry boxes."""
    turns = []
    written = tuple(map(photo.caption, range(len(photo.captions))))
    for i, caption in enumerate(photo.captions):
        mentions = [mention for mention in photo.mentions if mention.caption == i]
        text = None if view.flip and has_side(caption) else photo.grounded_caption(i, view)
        if text is None or max(len(mention.boxes) for mention in mentions) > _MOST_BOXES:
            continue
        pairs = tuple((tidy_phrase(caption[m.start : m.end]), boxes_in(view, m.boxes)) for m in mentions)
        boxes = [box for _, found in pairs for box in found or ()]
        turns.append(ask(Task.GROUNDING, "", text, rng, boxes, grounded=pairs, references=written))
    return turns


def _seen(photo: Photo, view: View) -> list[tuple[Thing, tuple[Box, ...]]]:
    """Things that lie wholly enough in the view, with their boxes there."""
    return [(thing, boxes) for thing in photo.things if (boxes := boxes_in(view, thing.boxes)) is not None]


def _alone(photo: Photo, thing: Thing) -> bool:
    """Whether no other thing of the photo could be meant by the thing's nouns."""
    return not any(other is not thing and set(other.nouns) & set(thing.nouns) for other in photo.things)


def _definite(name: str) -> str:
    words = name.split()
    if words[0] in ("the", "his", "her", "its", "their", "some", "two", "three"):
        return name
    return " ".join(["the", *(words[1:] if words[0] in ("a", "an", "one") else words)])


def refers(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """The place of the one thing that a phrase can mean."""
    turns = []
    for thing, boxes in _seen(photo, view):
        if len(boxes) != 1 or not thing.nouns or not _alone(photo, thing):
            continue
        for name in thing.names[:3]:
            # A phrase must name the thing itself, and one thing: not "pink", not "two dogs" with one box around both.
            if head_noun(name) is None or (number_of(name) or 1) != 1 or (view.flip and has_side(name)):
                continue
            turns.append(ask(Task.REFER, _definite(name), format_box(boxes[0]), rng, boxes, phrase=name))
    for noun, found in _detected(photo, view).items():
        if len(found) == 1 and noun != "person" and noun not in photo.mentioned:
            turns.append(ask(Task.REFER, f"the {noun}", format_box(found[0]), rng, found, phrase=noun))
    return turns


def identifies(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """What a box holds, by its most usual noun."""
    turns = []
    for thing, boxes in _seen(photo, view):
        if not thing.nouns or thing.boxes == () or (len(boxes) > 1 and photo.source not in EXHAUSTIVE):
            continue
        names = tuple(dict.fromkeys((*thing.nouns, *thing.names)))
        for box in boxes:
            if box.area >= 0.003:
                turns.append(ask(Task.IDENTIFY, format_box(box), thing.nouns[0], rng, [box], names=names))
    named = [box for thing in photo.things for box in thing.boxes]
    for noun, found in (photo.detected.some_of if photo.detected else {}).items():
        for box in found:
            shown = view.box(box)
            if shown and shown.area >= 0.003 and all(box.iou(other) < 0.5 for other in named):
                name = _NOUNS.get(noun, noun)
                turns.append(ask(Task.IDENTIFY, format_box(shown), name, rng, [shown], names=(name, noun)))
    return turns


# What people call the classes whose names nobody says.
_NOUNS = {"sports ball": "ball", "cell phone": "phone", "dining table": "table", "potted plant": "plant"}


def _detected(photo: Photo, view: View) -> dict[str, tuple[Box, ...]]:
    """All boxes of the classes of which the detector knows every one, where the view cuts none off, by noun."""
    whole = photo.detected.all_of if photo.detected else {}
    found = {_NOUNS.get(label, label): boxes_in(view, boxes) for label, boxes in whole.items()}
    return {noun: boxes for noun, boxes in found.items() if boxes is not None}


def _left_out(photo: Photo, noun: str, known: int) -> bool:
    """Whether the detector surely sees more of a class than the `known` that people name."""
    return photo.detected is not None and len(photo.detected.some_of.get(noun, ())) > known


def detections(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """Every box of a noun that is there."""
    turns = []
    detected = _detected(photo, view)
    for noun, found in detected.items():
        turns.append(ask(Task.DETECTION, noun, format_phrase(noun, found), rng, found, label=noun, absent=False))
    nouns = dict.fromkeys(noun for thing in photo.things for noun in thing.nouns)
    for noun in nouns:
        if noun in detected:
            continue
        wanted = [thing for thing in photo.things if noun in thing.nouns]
        boxes = [boxes_in(view, thing.boxes) for thing in wanted]
        distinct: list[Box] = []
        for box in sorted((b for found in boxes for b in found or ()), key=lambda b: (b.x1, b.y1)):
            if all(box.iou(other) < 0.7 for other in distinct):
                distinct.append(box)
        # A noun whose box the view cuts off would be half an answer; crowds are beyond this model.
        if any(found is None for found in boxes) or not 0 < len(distinct) <= _MOST_BOXES:
            continue
        if _left_out(photo, noun, len(distinct)):
            continue
        answer = format_phrase(noun, distinct)
        turns.append(ask(Task.DETECTION, noun, answer, rng, distinct, label=noun, absent=False))
    return turns


def no_detection(noun: str, rng: random.Random | None = None) -> Turn:
    """Detection of what is not there."""
    return ask(Task.DETECTION, noun, ABSENT, rng, label=noun, absent=True)


_EXISTENCE = (
    "is there {a} in the image?",
    "is there {a}?",
    "is there {a} in this picture?",
    "can you see {a}?",
    "does the image show {a}?",
    "Is there {a} in the image?",
)
_WHAT = ("what is this?", "what is in the image?", "what does the image show?")


def existence_turn(noun: str, negative: str | None, answer: str, rng: random.Random | None = None) -> Turn:
    """Whether something is there; `negative` is the kind of a no."""
    question = (rng.choice(_EXISTENCE) if rng else _EXISTENCE[0]).format(a=with_article(noun))
    return ask(Task.VQA, question, answer, rng, kind="existence", object=noun, negative=negative)


def existence(photo: Photo, view: View, table: Existence, rng: random.Random) -> Turn | None:
    """One balanced yes/no question about what is there."""
    seen = {noun for thing, _ in _seen(photo, view) for noun in thing.nouns}
    if photo.detected:
        seen |= {noun for noun, boxes in photo.detected.some_of.items() if any(view.box(box) for box in boxes)}
    present = [noun for noun in table.present(photo) if noun in seen]
    absent = table.draw_absent(photo, rng)
    if not present or absent is None:
        return None
    if rng.random() < 0.5:
        return existence_turn(rng.choice(present), None, "yes", rng)
    return existence_turn(absent, "drawn", "no", rng)


def colours(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """What colour something is, where all phrases of that noun in the photo agree; and whether it is of a colour."""
    found: dict[str, set[str]] = {}
    for thing in photo.things:
        for name in thing.names:
            noun, colour = head_noun(name), colour_of(name)
            if noun and noun not in PEOPLE and noun != "hair":
                mixed = sum(word in COLOURS or word == "grey" for word in words_of(name)) > 1
                found.setdefault(noun, set()).update([colour] if colour else ["mixed"] if mixed else [])
    seen = {noun for thing, _ in _seen(photo, view) for noun in thing.nouns}
    turns = []
    for noun, named in found.items():
        if len(named) != 1 or noun not in seen or "mixed" in named:
            continue
        colour = next(iter(named))
        verb = "are" if is_plural_only(noun) else "is"
        word = rng.choice(("colour", "color")) if rng else "colour"
        turns.append(ask(Task.VQA, f"what {word} {verb} the {noun}?", colour, rng, kind="colour", object=noun))
        if rng is not None:
            other = rng.choice([c for c in COLOURS[:8] if c != colour])
            said, answer = (colour, "yes") if rng.random() < 0.5 else (other, "no")
            turns.append(ask(Task.VQA, f"{verb} the {noun} {said}?", answer, rng, kind="attribute", object=noun))
    return turns


def counts(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """How many of something there are: from numerals that all captions agree on, or from exhaustive boxes."""
    turns = []
    for noun in dict.fromkeys(noun for thing in photo.things for noun in thing.nouns):
        wanted = [thing for thing in photo.things if noun in thing.nouns]
        boxes = [box for thing in wanted for box in thing.boxes]
        if any(boxes_in(view, thing.boxes) is None for thing in wanted) or not is_counted(noun):
            continue
        if photo.source in EXHAUSTIVE:
            number = len(boxes)
        else:
            numbers = {number_of(name) for thing in wanted for name in thing.names if head_noun(name) == noun}
            numbers.discard(None)
            number = next(iter(numbers)) or 0 if len(numbers) == 1 else 0
            many = {plural(noun)} - {noun}  # "deer" says nothing of how many
            vague = any(many & {*words_of(caption)} for caption in photo.captions) and number == 1
            if vague or number != len(boxes) or len(wanted) > 1 or not {"animals", "people"} & wanted[0].types:
                continue
            if (photo.detected and noun in photo.detected.numbers) or _left_out(photo, noun, number):
                continue
        if 0 < number <= _MOST_BOXES:
            turns.append(_count(noun, number, rng))
    if photo.detected:
        for label, told in photo.detected.numbers.items():
            theirs = photo.detected.all_of.get(label, ())
            # Where not everything is boxed, only the whole photo surely shows it.
            if told <= _MOST_COUNTED and (boxes_in(view, theirs) is not None if theirs else view.crop == WHOLE.crop):
                turns.append(_count(_NOUNS.get(label, label), told, rng))
        if rng is not None:
            turns = [turn for turn in turns if rng.random() < _KEPT_COUNTS.get(turn.answer, 1.0)]
    return turns


def _count(noun: str, number: int, rng: random.Random | None) -> Turn:
    question = f"how many {plural(noun)} are there?"
    return ask(Task.VQA, question, str(number), rng, kind="count", object=noun, number=number)


def relations(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """Whether one thing is to the left or right of another, judged from boxes that lie clearly apart."""
    single = [
        (thing.nouns[0], boxes[0])
        for thing, boxes in _seen(photo, view)
        if len(boxes) == 1 and thing.nouns and boxes[0].area < 0.4 and _alone(photo, thing)
    ]
    turns = []
    for one, a in single:
        for two, b in single:
            shift = (a.x1 + a.x2 - b.x1 - b.x2) / 2
            # The same pair is asked both ways round, so each side has yes and no equally often.
            if one == two or abs(shift) < 0.25:
                continue
            for side, holds in (("left", shift < 0), ("right", shift > 0)):
                question = f"is the {one} to the {side} of the {two}?"
                answer = "yes" if holds else "no"
                turns.append(ask(Task.VQA, question, answer, rng, kind="relation", object=one, other=two))
    return turns


def what_is(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """Naming the subject: labelled single-object photos, and the one animal of a captioned photo."""
    if photo.source in ("imagenet_sample", "raccoon") and len(photo.labels) == 1:
        names = tuple(dict.fromkeys((photo.labels[0], singular(photo.labels[0].split()[-1]))))
        question = rng.choice(_WHAT) if rng else _WHAT[0]
        return [ask(Task.VQA, question, photo.labels[0], rng, kind="what", names=names)]
    nouns = {noun for thing, _ in _seen(photo, view) for noun in thing.nouns if noun in _ANIMALS}
    if len(nouns) != 1:
        return []
    noun = next(iter(nouns))
    return [ask(Task.VQA, "what animal is in the image?", noun, rng, kind="what", names=(noun,))]


def annotated(photo: Photo, view: View, rng: random.Random | None = None) -> list[Turn]:
    """Questions that people wrote about the photo."""
    turns = []
    for question, answer in photo.qa:
        # A crop may hide what is asked for, and nothing says where that is.
        if view.crop != WHOLE.crop or (view.flip and has_side(f"{question} {answer}")):
            continue
        kind = "count" if question.startswith("how many") else "colour" if "colo" in question else "what"
        turns.append(ask(Task.VQA, question, answer, rng, kind=kind, names=(answer,)))
    return turns


def photo_turns(photo: Photo, view: View, table: Existence | None, task: str, rng: random.Random) -> Sequence[Turn]:
    """All turns of one named sort; the names are those of a mixture (`PHOTO_SORTS`).

    Raises:
        KeyError: there is no such sort.
    """
    if task == "existence":
        turn = existence(photo, view, table, rng) if table else None
        return [turn] if turn else []
    if task == "absent":
        noun = table.draw_absent(photo, rng) if table else None
        return [no_detection(noun, rng)] if noun else []
    return PHOTO_LISTS[task](photo, view, rng)


PHOTO_LISTS = {
    "caption": captions,
    "grounding": grounded_captions,
    "refer": refers,
    "identify": identifies,
    "detection": detections,
    "colour": colours,
    "count": counts,
    "relation": relations,
    "what": what_is,
    "annotated": annotated,
}
PHOTO_SORTS = ("existence", "absent", *PHOTO_LISTS)
