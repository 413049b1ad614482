"""What can be asked about a rendered scene, with exact answers.

Like `photo_tasks`: each function lists turns, `rng` chooses wordings and which of many; without it they are canonical
and complete.
"""

import random
from collections import Counter
from collections.abc import Sequence

from fourfold.assistant.english import NUMBERS, plural, with_article
from fourfold.assistant.grounding import format_box, format_phrase
from fourfold.assistant.training.data.photo_tasks import ask, no_detection
from fourfold.assistant.training.data.sample import Turn
from fourfold.assistant.training.data.scenes import PALETTE, SHAPES, Item, Scene
from fourfold.prompts.tasks import Task


def _kind(item: Item) -> str:
    return f"{item.colour} {item.shape}"


def _kinds(scene: Scene) -> Counter[str]:
    return Counter(_kind(item) for item in sorted(scene.items, key=lambda item: item.x))


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _counted(kind: str, number: int) -> str:
    return with_article(kind) if number == 1 else f"{NUMBERS[number]} {plural(kind)}"


def _caption(scene: Scene) -> str:
    text = _join([_counted(kind, number) for kind, number in _kinds(scene).items()])
    if scene.word:
        text += f", and the word {scene.word}"
    return f"{text[:1].upper()}{text[1:]}."


def _boxes_of(scene: Scene, kind: str) -> list:
    """Boxes of `red circle`, of `circle` or of `red`, from left to right."""
    found = [item.box for item in scene.items if set(kind.split()) <= {item.colour, item.shape}]
    return sorted(found, key=lambda box: (box.x1, box.y1))


def captions(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """The scene's one caption: kinds from left to right, with their numbers."""
    text = _caption(scene)
    return [ask(Task.CAPTION, "", text, rng, references=(text,))]


def grounded_captions(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """The caption with boxes."""
    parts: list[str] = []
    pairs = []
    for kind, number in _kinds(scene).items():
        phrase, found = _counted(kind, number), tuple(_boxes_of(scene, kind))
        phrase = phrase if parts else phrase[:1].upper() + phrase[1:]
        parts.append(format_phrase(phrase, found))
        pairs.append((phrase.lower(), found))
    boxes = [box for _, there in pairs for box in there]
    facts = {"grounded": tuple(pairs), "references": (_caption(scene),)}
    return [ask(Task.GROUNDING, "", f"{_join(parts)}.", rng, boxes, **facts)]


def refers(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """The place of what is the only one of its kind."""
    turns = []
    shapes = Counter(item.shape for item in scene.items)
    kinds = _kinds(scene)
    for item in scene.items:
        names = [_kind(item)] if kinds[_kind(item)] == 1 else []
        if rng is not None and shapes[item.shape] == 1:
            names.append(item.shape)
        for name in names:
            turns.append(ask(Task.REFER, f"the {name}", format_box(item.box), rng, [item.box], phrase=name))
    if scene.word_box is not None and rng is not None:
        turns.append(ask(Task.REFER, "the word", format_box(scene.word_box), rng, [scene.word_box], phrase="word"))
    return turns


def identifies(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """Colour and shape of what a box holds."""
    turns = []
    for item in scene.items:
        kind = _kind(item)
        turns.append(ask(Task.IDENTIFY, format_box(item.box), kind, rng, [item.box], names=(kind, f"a {kind}")))
    return turns


def detections(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """All of a kind or of a shape."""
    turns = []
    for name in dict.fromkeys([*_kinds(scene), *(item.shape for item in scene.items)]):
        boxes = _boxes_of(scene, name)
        turns.append(ask(Task.DETECTION, name, format_phrase(name, boxes), rng, boxes, label=name, absent=False))
    return turns


def absent_detections(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """Detection of what is not there."""
    picker = rng or random.Random(scene.id)
    return [no_detection(_absent(scene, picker), rng)]


def _absent(scene: Scene, rng: random.Random) -> str:
    """A kind that is not there but shares a colour or a shape with one that is."""
    there = set(_kinds(scene))
    near = [f"{colour} {item.shape}" for item in scene.items for colour in PALETTE if colour != item.colour]
    near += [f"{item.colour} {shape}" for item in scene.items for shape in SHAPES if shape != item.shape]
    return rng.choice([kind for kind in near if kind not in there])


_EXISTENCE = ("is there {a}?", "is there {a} in the image?", "can you see {a}?")


def existence(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """A yes and a no about kinds."""
    picker = rng or random.Random(scene.id)
    yes, no = picker.choice(list(_kinds(scene))), _absent(scene, picker)
    form = rng.choice(_EXISTENCE) if rng else _EXISTENCE[1]
    return [
        ask(Task.VQA, form.format(a=with_article(kind)), answer, rng, kind="existence", object=kind, negative=negative)
        for kind, answer, negative in ((yes, "yes", None), (no, "no", "adversarial"))
    ]


def colours(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """The colour of a shape that occurs once."""
    shapes = Counter(item.shape for item in scene.items)
    word = rng.choice(("colour", "color")) if rng else "colour"
    return [
        ask(Task.VQA, f"what {word} is the {item.shape}?", item.colour, rng, kind="colour", object=item.shape)
        for item in scene.items
        if shapes[item.shape] == 1
    ]


def what_is(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """The shape that has a colour of its own, and the written word."""
    colours_there = Counter(item.colour for item in scene.items)
    turns = [
        ask(Task.VQA, f"what shape is {item.colour}?", item.shape, rng, kind="what", names=(item.shape,))
        for item in scene.items
        if colours_there[item.colour] == 1
    ]
    if scene.word:
        names = (scene.word, scene.word.lower())
        turns.append(ask(Task.VQA, "what does the text say?", scene.word, rng, kind="text", names=names))
    return turns


def counts(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """How many there are of a shape, of a colour, or in all."""
    groups = [("shapes", len(scene.items))]
    groups += [(plural(shape), number) for shape, number in Counter(item.shape for item in scene.items).items()]
    groups += [(f"{colour} shapes", number) for colour, number in Counter(item.colour for item in scene.items).items()]
    return [
        ask(Task.VQA, f"how many {group} are there?", str(number), rng, kind="count", number=number)
        for group, number in groups
    ]


def relations(scene: Scene, rng: random.Random | None = None) -> list[Turn]:
    """Which side one unmistakable shape has to another, when they lie clearly apart."""
    kinds = _kinds(scene)
    single = [item for item in scene.items if kinds[_kind(item)] == 1]
    turns = []
    for one in single:
        for two in single:
            dx, dy = one.x - two.x, one.y - two.y
            if one is two or max(abs(dx), abs(dy)) < 40:
                continue
            pairs = (("left of", "right of"), dx) if abs(dx) > abs(dy) else (("above", "below"), dy)
            for side, holds in zip(pairs[0], (pairs[1] < 0, pairs[1] > 0), strict=True):
                side = f"to the {side}" if side.endswith("of") else side
                question = f"is the {_kind(one)} {side} the {_kind(two)}?"
                answer = "yes" if holds else "no"
                turns.append(ask(Task.VQA, question, answer, rng, kind="relation", object=_kind(one)))
    return turns


SCENE_SORTS = {
    "caption": captions,
    "grounding": grounded_captions,
    "refer": refers,
    "identify": identifies,
    "detection": detections,
    "absent": absent_detections,
    "existence": existence,
    "colour": colours,
    "what": what_is,
    "count": counts,
    "relation": relations,
}
