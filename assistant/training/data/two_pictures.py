"""Questions about two pictures: which of them shows something, what is in the first or the second, how they differ.

Boxes belong to one picture, so none is asked for here.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

from fourfold.assistant.english import NUMBERS, plural, with_article
from fourfold.assistant.training.data.existence import Existence
from fourfold.assistant.training.data.photo_tasks import captions as photo_captions
from fourfold.assistant.training.data.photos import Photo, boxes_in
from fourfold.assistant.training.data.sample import Turn, View
from fourfold.assistant.training.data.scene_tasks import captions as scene_captions
from fourfold.assistant.training.data.scenes import PALETTE, SHAPES, Scene
from fourfold.prompts.tasks import Task, with_tag

_NAMES = ("first", "second")
_UNTAGGED = 0.6  # part of the questions without their tag
_WHICH = (
    "which picture shows {a}?",
    "which of the two pictures shows {a}?",
    "in which picture can you see {a}?",
    "which image has {a} in it?",
)
_THERE = (
    "is there {a} in the {name} picture?",
    "does the {name} picture show {a}?",
    "can you see {a} in the {name} image?",
)
_DESCRIBE = (
    "describe the {name} picture",
    "what does the {name} picture show?",
    "what is in the {name} image?",
    "caption the {name} picture",
)
_BOTH = ("describe both pictures", "what do the two pictures show?", "what is in each picture?")
_DIFFER = ("what differs between the pictures?", "how do the two pictures differ?", "what is the difference?")


def photo_pair(
    photos: tuple[Photo, Photo], views: tuple[View, View], table: Existence, count: int, rng: random.Random
) -> tuple[Turn, ...]:
    """Up to `count` different turns about two photos of the kind that `table` knows."""
    seen = [
        {noun for thing in photo.things if boxes_in(view, thing.boxes) is not None for noun in thing.nouns}
        & {*table.present(photo)}
        for photo, view in zip(photos, views, strict=True)
    ]
    absent = [{*table.absent(photo)} for photo in photos]
    hard = [noun for photo in photos for _ in range(2) if (noun := table.draw_absent(photo, rng))]
    said = [[turn.answer for turn in photo_captions(p, view)] for p, view in zip(photos, views, strict=True)]
    kinds: list[Callable[[], Turn | None]] = [
        lambda: _which(seen, absent, hard, rng),
        lambda: _there(seen, absent, hard, rng),
        lambda: _caption(said, rng),
    ]
    return _turns(kinds, (4, 4, 3), count, rng)


def scene_pair(scenes: tuple[Scene, Scene], count: int, rng: random.Random) -> tuple[Turn, ...]:
    """Up to `count` different turns about two scenes."""
    seen = [
        {f"{item.colour} {item.shape}" for item in scene.items} | {item.shape for item in scene.items}
        for scene in scenes
    ]
    every = {*SHAPES, *(f"{colour} {shape}" for colour in PALETTE for shape in SHAPES)}
    # What is in neither but alike: a shape of one in a colour of the other.
    shapes, colours = ([getattr(i, name) for scene in scenes for i in scene.items] for name in ("shape", "colour"))
    hard = [kind for _ in range(4) if (kind := f"{rng.choice(colours)} {rng.choice(shapes)}") not in seen[0] | seen[1]]
    said = [[turn.answer for turn in scene_captions(scene)] for scene in scenes]
    absent = [every - there for there in seen]
    kinds: list[Callable[[], Turn | None]] = [
        lambda: _which(seen, absent, hard, rng),
        lambda: _there(seen, absent, hard, rng),
        lambda: _caption(said, rng),
        lambda: _counted(scenes, rng),
        lambda: _coloured(scenes, rng),
        lambda: _differing(scenes, rng),
    ]
    return _turns(kinds, (3, 3, 1, 2, 2, 2), count, rng)


def _turns(
    kinds: Sequence[Callable[[], Turn | None]], weights: Sequence[float], count: int, rng: random.Random
) -> tuple[Turn, ...]:
    turns: dict[tuple[object, ...], Turn] = {}
    for kind in rng.choices(kinds, weights=weights, k=2 * count):
        turn = kind()
        if turn is not None and len(turns) < count:
            turns.setdefault(tuple(turn.facts.values()), turn)  # the same is not asked again in other words
    return tuple(turns.values())


def _ask(
    task: Task, question: str, answer: str, rng: random.Random, kind: str, thing: str = "", place: int | None = None
) -> Turn:
    if rng.random() >= _UNTAGGED:
        question = with_tag(task, question)
    return Turn(task, question, answer, facts={"kind": kind, "object": thing, "picture": place})


def _which(
    seen: Sequence[set[str]], absent: Sequence[set[str]], hard: Sequence[str], rng: random.Random
) -> Turn | None:
    """Which picture shows a thing; each of the four answers is as likely, where the pictures allow it."""
    things = {
        "the first": sorted(seen[0] & absent[1]),
        "the second": sorted(seen[1] & absent[0]),
        "both": sorted(seen[0] & seen[1]),
        "neither": [thing for thing in hard if thing in absent[0] & absent[1]],
    }
    answer = rng.choice(list(things))
    if not things[answer]:
        return None
    thing = rng.choice(things[answer])
    question = rng.choice(_WHICH).format(a=with_article(thing))
    return _ask(Task.VQA, question, answer, rng, "which picture", thing)


def _there(
    seen: Sequence[set[str]], absent: Sequence[set[str]], hard: Sequence[str], rng: random.Random
) -> Turn | None:
    """Whether one of the pictures shows a thing; a no is mostly about what the other one shows."""
    place = rng.randrange(2)
    answer = rng.choice(("yes", "no"))
    if answer == "yes":
        things = sorted(seen[place])
    else:
        things = sorted(seen[1 - place] & absent[place])
        if not things or rng.random() < 0.3:
            things = [thing for thing in hard if thing in absent[place]]
    if not things:
        return None
    thing = rng.choice(things)
    question = rng.choice(_THERE).format(a=with_article(thing), name=_NAMES[place])
    return _ask(Task.VQA, question, answer, rng, "existence", thing, place)


def _caption(said: Sequence[Sequence[str]], rng: random.Random) -> Turn | None:
    if not all(said):
        return None
    if rng.random() < 0.25:
        first, second = map(rng.choice, said)
        return _ask(Task.CAPTION, rng.choice(_BOTH), f"The first: {first} The second: {second}", rng, "caption")
    place = rng.randrange(2)
    question = rng.choice(_DESCRIBE).format(name=_NAMES[place])
    return _ask(Task.CAPTION, question, rng.choice(said[place]), rng, "caption", place=place)


def _counted(scenes: Sequence[Scene], rng: random.Random) -> Turn | None:
    """How many there are of a shape in one of the pictures, or which of them has more."""
    numbers = [Counter(item.shape for item in scene.items) for scene in scenes]
    shape = rng.choice(sorted({*numbers[0], *numbers[1]}))
    first, second = (number[shape] for number in numbers)
    if rng.random() < 0.5 and first != second:
        more = rng.choice((True, False))
        question = f"which picture has {'more' if more else 'fewer'} {plural(shape)}?"
        answer = f"the {_NAMES[(second > first) == more]}"
        return _ask(Task.VQA, question, answer, rng, "more", shape)
    place = rng.randrange(2)
    question = f"how many {plural(shape)} are there in the {_NAMES[place]} picture?"
    return _ask(Task.VQA, question, str(numbers[place][shape]), rng, "count", shape, place)


def _coloured(scenes: Sequence[Scene], rng: random.Random) -> Turn | None:
    """What colour the one circle of a picture is."""
    place = rng.randrange(2)
    numbers = Counter(item.shape for item in scenes[place].items)
    single = [item for item in scenes[place].items if numbers[item.shape] == 1]
    if not single:
        return None
    item = rng.choice(single)
    question = f"what colour is the {item.shape} in the {_NAMES[place]} picture?"
    return _ask(Task.VQA, question, item.colour, rng, "colour", item.shape, place)


def _differing(scenes: Sequence[Scene], rng: random.Random) -> Turn | None:
    """What differs: colours or numbers of a shape that both pictures show, or else one that only one of them shows."""
    one, two = (_by_shape(scene) for scene in scenes)
    shared = [shape for shape in one if shape in two and sorted(one[shape]) != sorted(two[shape])]
    if shared:
        shape = rng.choice(shared)
        if len(one[shape]) != len(two[shape]):
            answer = f"The first has {_number(shape, len(one[shape]))}, the second {_number(shape, len(two[shape]))}."
        elif len(one[shape]) == 1:
            answer = f"The {shape} is {one[shape][0]} in the first and {two[shape][0]} in the second."
        else:
            return None
        return _ask(Task.VQA, rng.choice(_DIFFER), answer, rng, "difference")
    only = [(place, shape) for place, (a, b) in enumerate(((one, two), (two, one))) for shape in a if shape not in b]
    if not only:
        return None
    place, shape = rng.choice(only)
    what = with_article(shape) if len((one, two)[place][shape]) == 1 else plural(shape)
    answer = f"Only the {_NAMES[place]} has {what}."
    return _ask(Task.VQA, rng.choice(_DIFFER), answer, rng, "difference")


def _by_shape(scene: Scene) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in scene.items:
        found.setdefault(item.shape, []).append(item.colour)
    return found


def _number(shape: str, number: int) -> str:
    return f"{NUMBERS[number]} {plural(shape) if number > 1 else shape}"
