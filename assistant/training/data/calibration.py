"""Questions about photos that a model was not shown, to fit on how far it can be believed."""

import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fourfold.assistant.english import words_in
from fourfold.assistant.training.data import photo_tasks
from fourfold.assistant.training.data.heldout import existence_tables
from fourfold.assistant.training.data.mixture import TWO_PICTURES, Mixture, MixtureConfig
from fourfold.assistant.training.data.photos import Photo, read_photos
from fourfold.assistant.training.data.sample import WHOLE, ImageRef, Sample, photos_directory
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

SHARES = {"relation": 0.2}
"""How often a sort of question is asked, where it is not as often as the others: predicates are mostly of existence."""
_DOING = re.compile(r"\b(man|woman|boy|girl|dog|child)\b(?: \w+){0,4}? (\w{3,}ing)\b")
# What ends like a deed and is none, or can hardly be denied.
_NOT_DOING = words_in(
    "wearing being holding building clothing something looking standing during having using getting doing going "
    "evening morning railing living string spring ring king swing wing painting ceiling thing nothing everything"
)
OPEN = ("annotated", "doing")
"""Sorts that are asked openly alone, never with a closed set of answers."""
_EACH = 2  # questions of a sort about one photo


def photos_shown(bridge: Mapping[str, Any]) -> set[str] | None:
    """Ids of the photos that a training has shown, from what `bridge.json` tells of it; None where it does not tell.

    The mixture's epochs are gone through in their order until as many samples have come as were trained on; a tenth
    more, since samples without a turn were passed over.
    """
    try:
        config = TypeAdapter(MixtureConfig).validate_python(bridge["recipe"]["mixture"])
        left = math.ceil(1.1 * int(bridge["trained_on"]["sequences"]))
    except (KeyError, TypeError, ValueError, ValidationError, UserError):
        return None
    # Their file may not be here, and which photos are shown does not follow from it.
    mixture, shown, epoch = Mixture(replace(config, pseudo_labels=None)), set[str](), 0
    while left > 0:
        entries = mixture.epoch(epoch)
        if not entries:
            break
        for entry in entries[:left]:
            shown.add(entry[0])
            if entry[0] == TWO_PICTURES:
                shown |= {image.id for image in mixture.draw(entry, epoch).images}
        left -= len(entries)
        epoch += 1
    return shown & {photo.id for photos in mixture.photos.values() for photo in photos}


def calibration_samples(bridge: Mapping[str, Any], limit: int, seed: int = 0) -> tuple[dict[str, list[Sample]], str]:
    """Closed questions for a model, by sort, at most `limit` of each; and of which photos they are, in words.

    Photos of the training split that the model has not been shown. Where everything was shown, or nobody knows what
    was, every other held-out photo: about what it has learnt by heart a model is surer, and rightly so.

    Raises:
        UserError: the photos are not there.
    """
    photos = read_photos(photos_directory())
    shown = photos_shown(bridge)
    chosen = [] if shown is None else [photo for photo in photos if not photo.held_out and photo.id not in shown]
    told = "training split, never shown to this model"
    if len(chosen) < limit:
        chosen = [photo for photo in photos if photo.held_out and zlib.crc32(photo.id.encode()) % 2]
        told = "held-out split, every other photo"
    rng = random.Random(f"calibration {seed}")
    rng.shuffle(chosen)
    samples: dict[str, list[Sample]] = {"existence": _existence(chosen[: 4 * limit], limit, seed)}
    for sort in ("colour", "count", "relation", "what"):
        samples[sort] = _of_sort(sort, chosen, round(limit * SHARES.get(sort, 1)), rng)
    for sort in OPEN:  # drawn last, so that those above stay what they were
        samples[sort] = _doing(chosen, limit, rng) if sort == "doing" else _of_sort(sort, chosen, limit, rng)
    return samples, told


def _existence(chosen: Sequence[Photo], limit: int, seed: int) -> list[Sample]:
    """Pairs of a yes and a no about one photo."""
    captioned = [photo for photo in chosen if photo.mentions]
    pairs = existence_tables()["captioned"].held_out_pairs(captioned, seed) if captioned else []
    return [
        _one(photo, photo_tasks.existence_turn(noun, negative, "no" if negative else "yes"))
        for photo, noun, negative in pairs[: limit // 2 * 2]
    ]


def _doing(photos: Sequence[Photo], limit: int, rng: random.Random) -> list[Sample]:
    """Pairs of a yes and a no about what somebody does, where two captions say it; noes are what others do."""
    told: list[tuple[Photo, str, str]] = []
    for photo in photos:
        said = Counter(
            (who, doing)
            for caption in photo.captions
            for who, doing in set(_DOING.findall(caption.lower()))
            if doing not in _NOT_DOING
        )
        if said and said.most_common(1)[0][1] >= 2:
            told.append((photo, *said.most_common(1)[0][0]))
    common = [doing for doing, _ in Counter(doing for _, _, doing in told).most_common(40)]
    samples = []
    for photo, who, doing in told[: limit // 2]:
        absent = [other for other in common if other not in " ".join(photo.captions).lower()]
        asked = [(doing, "yes"), *([(rng.choice(absent), "no")] if absent else [])]
        for word, answer in asked:
            turn = photo_tasks.ask(Task.VQA, f"is the {who} {word}?", answer, None, kind="doing", object=who)
            samples.append(_one(photo, turn))
    return samples


def _of_sort(sort: str, photos: Sequence[Photo], limit: int, rng: random.Random) -> list[Sample]:
    groups: dict[str, list[Sample]] = {}
    for photo in photos:
        turns = list(photo_tasks.PHOTO_LISTS[sort](photo, WHOLE))
        rng.shuffle(turns)
        for turn in turns[:_EACH]:
            # Numbers in equal parts, or "1" would be nearly always right.
            groups.setdefault(turn.answer if sort == "count" else "", []).append(_one(photo, turn))
    found: list[Sample] = []
    while len(found) < limit and any(groups.values()):
        found += [group.pop() for group in groups.values() if group]
    return found[:limit]


def _one(photo: Photo, turn: Any) -> Sample:
    return Sample((ImageRef(photo.id, path=photo.path),), (turn,))
