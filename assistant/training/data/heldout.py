"""Items that are never trained on, for measuring: one turn each, canonical wording, facts for scoring."""

import random
from collections.abc import Sequence
from functools import cache
from itertools import count, zip_longest

from fourfold.assistant.training.data import photo_tasks
from fourfold.assistant.training.data.existence import Existence, by_kind
from fourfold.assistant.training.data.photos import Photo, read_photos
from fourfold.assistant.training.data.sample import WHOLE, ImageRef, Sample, Turn, photos_directory
from fourfold.assistant.training.data.scene_tasks import SCENE_SORTS
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

HELD_OUT_SOURCES = ("photos", "scenes")
_VQA_SHARES = {
    "photos": {"existence": 0.5, "colour": 0.1, "count": 0.1, "relation": 0.1, "what": 0.1, "annotated": 0.1},
    "scenes": {"existence": 0.2, "colour": 0.2, "count": 0.2, "relation": 0.2, "what": 0.2},
}

# Where two photos had "cooky" and "headscarve" among their nouns when the items were drawn that the published figures
# were measured on: as many are shuffled now, or all items after them would be others.
_GONE = {"flickr8k_entities/2640153227_57cf1a3d92": 4, "flickr8k_entities/3509611207_7645b1d28d": 2}


def held_out(task: Task, source: str, seed: int = 0, limit: int | None = None) -> list[Sample]:
    """Held-out items of a task, the same for the same arguments.

    Existence has a yes and a no about the same photo, `facts["negative"]` saying how the no was drawn ("random",
    "popular", "adversarial"; None for a yes), and every noun has about as many noes as yeses. Other vqa items have
    `facts["kind"]` "colour", "count", "relation", "what" or "text". Detection has absent nouns for about a quarter.

    Args:
        source: "photos" (the held-out split) or "scenes" (rendered from seeds that training never uses).
        seed: draws other items.
        limit: at most so many items; for vqa shared among the kinds. None for all of the photos, or 400 scenes.

    Raises:
        UserError: no such source, or the photos are not there.
    """
    if source not in HELD_OUT_SOURCES:
        raise UserError(f"no held-out source is called {source!r}; there are: {', '.join(HELD_OUT_SOURCES)}")
    if task is Task.VQA:
        shares = _VQA_SHARES[source]
        parts = {kind: None if limit is None else round(limit * share) for kind, share in shares.items()}
    else:
        parts = {task.value: limit}
    items: list[Sample] = []
    for kind, most in parts.items():
        items += _from_photos(kind, seed, most) if source == "photos" else _from_scenes(kind, seed, most)
    return items


@cache
def existence_tables() -> dict[str, Existence]:
    """Of the photos that are there, for questions that no mixture asks."""
    return by_kind(read_photos(photos_directory()))


def _one(photo: Photo, turn: Turn) -> Sample:
    return Sample((ImageRef(photo.id, path=photo.path),), (turn,))


def _from_photos(kind: str, seed: int, limit: int | None) -> list[Sample]:
    photos = [photo for photo in read_photos(photos_directory()) if photo.held_out]
    rng = random.Random(f"held out {kind} {seed}")
    if kind == "existence":
        items = []
        for name, table in existence_tables().items():
            chosen = [p for p in photos if (p.mentions if name == "captioned" else p.source == name)]
            for photo, noun, negative in table.held_out_pairs(chosen, seed):
                items.append(_one(photo, photo_tasks.existence_turn(noun, negative, "no" if negative else "yes")))
        return _pairs(items, limit, rng)
    groups: dict[str, list[Sample]] = {}
    for photo in photos:
        turns: list[Turn | None] = [*photo_tasks.PHOTO_LISTS[kind](photo, WHOLE)]
        if kind == "detection" and photo.id in _GONE:
            turns.insert(_GONE[photo.id], None)
        rng.shuffle(turns)
        # One caption a photo, since all five are its references; few items of one photo say more than many.
        for turn in [turn for turn in turns if turn][: 1 if kind in ("caption", "grounding", "what") else 2]:
            # Numbers in equal parts, or "1" would be nearly always right.
            groups.setdefault(turn.answer if kind == "count" else "", []).append(_one(photo, turn))
        if kind == "detection" and photo.mentions and rng.random() < 0.6:
            absent = existence_tables()["captioned"].draw_absent(photo, rng)
            if absent:
                groups[""].append(_one(photo, photo_tasks.no_detection(absent)))
    return _even(list(groups.values()), limit, rng)


def _pairs(items: list[Sample], limit: int | None, rng: random.Random) -> list[Sample]:
    """Whole pairs of a yes and a no about one photo."""
    pairs = list(zip(items[::2], items[1::2], strict=True))
    rng.shuffle(pairs)
    return [item for pair in pairs for item in pair][: None if limit is None else limit // 2 * 2]


def _even(groups: Sequence[list[Sample]], limit: int | None, rng: random.Random) -> list[Sample]:
    """Items of all groups, as evenly as their sizes allow where there is a limit."""
    for group in groups:
        rng.shuffle(group)
    return [item for row in zip_longest(*groups) for item in row if item is not None][:limit]


def _from_scenes(kind: str, seed: int, limit: int | None) -> list[Sample]:
    items: list[Sample] = []
    for number in count():
        if len(items) >= (400 if limit is None else limit):
            break
        name = f"scenes/heldout-{seed}-{kind}-{number}"
        scene, rng = make_scene(name), random.Random(name)
        absent = kind == "detection" and rng.random() < 0.25
        turns = SCENE_SORTS["absent" if absent else kind](scene)
        if kind == "existence":
            turns = [turns[(number + 1) % 2]]
        if kind == "count":
            turns = [turn for turn in turns if turn.answer == str((number + 1) % 4 + 1)]
        if turns:
            items.append(Sample((ImageRef(name, scene=scene),), (rng.choice(turns),)))
    return items
