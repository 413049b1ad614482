"""The declared mixture: which images, how often, and which questions about them; all of it follows from a seed."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated

from pydantic import AliasChoices, Field, with_config

from fourfold.assistant.grounding import Box
from fourfold.assistant.training.data.existence import Existence, by_kind
from fourfold.assistant.training.data.photo_tasks import PHOTO_SORTS, photo_turns
from fourfold.assistant.training.data.photos import SOURCES, Photo, read_photos
from fourfold.assistant.training.data.pseudo_labels import read_pseudo_labels, with_pseudo_labels
from fourfold.assistant.training.data.sample import WHOLE, ImageRef, Sample, Turn, View, photos_directory
from fourfold.assistant.training.data.scene_tasks import SCENE_SORTS
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.assistant.training.data.small_talk import as_typed, beside_a_picture, without_picture
from fourfold.assistant.training.data.talk import TALKED_OF, talk_about
from fourfold.assistant.training.data.two_pictures import photo_pair, scene_pair
from fourfold.assistant.validation import FORBID_UNKNOWN
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

AtLeast0 = Annotated[int, Field(ge=0, strict=True)]
AtLeast1 = Annotated[int, Field(ge=1, strict=True)]
Part = Annotated[float, Field(ge=0, le=1)]
Weights = Mapping[str, Annotated[float, Field(ge=0)]]
TALK = "talk"
_NO_PICTURE, TWO_PICTURES = "no picture", "two pictures"  # in an epoch's plan
# How often one sample may hold a sort of question; the others twice.
_MOST = {"caption": 2, "grounding": 1, "existence": 3, "what": 1, "annotated": 5, "absent": 1, TALK: 3}


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class MixtureConfig:
    """What is taught, declared."""

    # passes over each source in one epoch; 0.5 takes every other photo in turn
    photos: Weights = field(default_factory=dict)
    scenes: AtLeast0 = 0  # how many rendered scenes there are
    # how many an epoch shows, one after the other through the epochs and from the start again
    scenes_per_epoch: AtLeast0 = 0
    # sets of pixels per photo: 1 the photo itself, 2 its mirror image too, from 3 on random crops. Epochs show them
    # in turn.
    views: AtLeast1 = 1
    turns: AtLeast1 = 5  # questions about one image in one sample, at most
    # part of the samples whose turns form one conversation; files may say "together"
    multi_turn: Annotated[Part, Field(validation_alias=AliasChoices("multi_turn", "together"))] = 0.2
    # no_picture, two_pictures: parts of an epoch's samples that are added to those of one picture each
    no_picture: Part = 0.0  # of greetings and questions without a picture, answered in words
    two_pictures: Part = 0.0  # of two photos, or of two scenes
    greetings: Part = 0.0  # part of the samples of one picture that get a greeting, thanks or the like as one more turn
    typed: Part = 0.0  # part of the caption and refer questions in words that people type, most of them without a tag
    untagged: Part = 0.1  # part of the vqa and caption questions that stand without their tag, as people type them
    # sorts of questions: `PHOTO_SORTS`, `SCENE_SORTS`, and "talk" about the answer to one of the others
    photo_tasks: Weights = field(default_factory=dict)  # weight of each sort of question about photos
    scene_tasks: Weights = field(default_factory=dict)  # weight of each sort of question about scenes
    # how often one sample may hold a sort of question, for the sorts where it is not the usual number
    most: Mapping[str, AtLeast1] = field(default_factory=dict)
    # what a detector found in the photos for training (`fourfold train pseudo-labels`), a file in their directory; None
    # for what people wrote alone
    pseudo_labels: str | None = None
    limit: AtLeast1 | None = None  # at most so many photos of a source, for small runs
    seed: int = 0  # everything follows from it

    def __post_init__(self) -> None:
        for name, given, known in (
            ("photos", self.photos, SOURCES),
            ("photo_tasks", self.photo_tasks, (*PHOTO_SORTS, TALK)),
            ("scene_tasks", self.scene_tasks, (*SCENE_SORTS, TALK)),
            ("most", self.most, (*PHOTO_SORTS, *SCENE_SORTS, TALK)),
        ):
            if unknown := set(given) - set(known):
                raise UserError(f"{name} of the mixture names {sorted(unknown)}; there are: {', '.join(known)}")
        if self.scenes_per_epoch and not self.scenes:
            raise UserError("scenes_per_epoch needs scenes: say how many there are")
        if self.no_picture + self.two_pictures >= 1:
            raise UserError("no_picture and two_pictures together must leave a part for samples of one picture")
        if (self.photos and not self.photo_tasks) or (self.scenes and not self.scene_tasks):
            raise UserError("the mixture has images without tasks: fill photo_tasks and scene_tasks")


class Mixture:
    """Images and samples of a declared mixture. Never an image of the held-out split."""

    def __init__(self, config: MixtureConfig) -> None:
        self.config = config

    @cached_property
    def photos(self) -> dict[str, list[Photo]]:
        """Photos to train on, by source."""
        if not self.config.photos:
            return {}
        found: dict[str, list[Photo]] = {source: [] for source in self.config.photos}
        photos: Sequence[Photo] = read_photos(photos_directory(), self.config.photos)
        if self.config.pseudo_labels:
            photos = with_pseudo_labels(photos, read_pseudo_labels(photos_directory() / self.config.pseudo_labels))
        for photo in photos:
            if not photo.held_out and len(found[photo.source]) < (self.config.limit or math.inf):
                found[photo.source].append(photo)
        return found

    @cached_property
    def _photo(self) -> dict[str, Photo]:
        return {photo.id: photo for photos in self.photos.values() for photo in photos}

    @cached_property
    def _existence(self) -> dict[str, Existence]:
        return by_kind([photo for photos in self.photos.values() for photo in photos])

    def photo_image(self, photo: Photo, view: int) -> ImageRef:
        """Photo `photo` in its view number `view`."""
        return ImageRef(photo.id, path=photo.path, view=_view(f"{self.config.seed} {photo.id}", view))

    def _views(self, source: str) -> int:
        # What DAQUAR's questions ask for has no boxes, so nobody knows whether a crop still shows it.
        return min(self.config.views, 2) if source == "daquar" else self.config.views

    def scene_image(self, number: int) -> ImageRef:
        """Scene `number` of the mixture."""
        name = f"scenes/train-{self.config.seed}-{number}"
        return ImageRef(name, scene=make_scene(name))

    def images(self) -> Iterator[ImageRef]:
        """Every set of pixels that any epoch shows."""
        for source, photos in self.photos.items():
            for photo in photos:
                for view in range(self._views(source)):
                    yield self.photo_image(photo, view)
        for number in range(self.config.scenes):
            yield self.scene_image(number)

    def epoch(self, epoch: int) -> list[tuple[str, int]]:
        """The epoch's samples, shuffled.

        Each is (photo id, view), ("scene", number of the showing), ("no picture", number) or ("two pictures", number).
        """
        config = self.config
        plan: list[tuple[str, int]] = []
        for source, passes in config.photos.items():
            photos = self.photos[source]
            first, last = math.floor(len(photos) * passes * epoch), math.floor(len(photos) * passes * (epoch + 1))
            for number in range(first, last):
                turn, place = divmod(number, len(photos))
                plan.append((photos[place].id, (turn + place) % self._views(source)))
        first = config.scenes_per_epoch * epoch
        plan += [("scene", number) for number in range(first, first + config.scenes_per_epoch)]
        ordinary, rest = len(plan), 1 - config.no_picture - config.two_pictures
        for name, part in ((_NO_PICTURE, config.no_picture), (TWO_PICTURES, config.two_pictures)):
            plan += [(name, number) for number in range(round(ordinary * part / rest))]
        random.Random(f"epoch {config.seed} {epoch}").shuffle(plan)
        return plan

    def draw(self, entry: tuple[str, int], epoch: int) -> Sample:
        """The sample of an epoch's entry; it may have no turn, where nothing in a crop can be asked for."""
        name, number = entry
        rng = random.Random(f"draw {self.config.seed} {epoch} {name} {number}")
        if name == _NO_PICTURE:
            said = {turn.question: turn for turn in (without_picture(rng) for _ in range(self.config.turns))}
            return Sample((), tuple(said.values()), multi_turn=rng.random() < self.config.multi_turn)
        if name == TWO_PICTURES:
            return self._two_pictures(rng)
        if name == "scene":
            image = self.scene_image(number % self.config.scenes)
            scene, weights = image.scene, self.config.scene_tasks
            assert scene is not None
            turns = self._turns(weights, lambda sort: SCENE_SORTS[sort](scene, rng), rng)
        else:
            photo, weights = self._photo[name], self.config.photo_tasks
            image = self.photo_image(photo, number)
            table = self._existence.get("captioned" if photo.mentions else photo.source)
            turns = self._turns(weights, lambda sort: photo_turns(photo, image.view, table, sort, rng), rng)
        multi_turn = rng.random() < self.config.multi_turn
        if self.config.greetings and rng.random() < self.config.greetings:
            place = rng.randint(0, len(turns))
            turns = (*turns[:place], beside_a_picture(rng), *turns[place:])
        return Sample((image,), turns, multi_turn=multi_turn)

    @cached_property
    def _alike(self) -> list[tuple[Existence | None, list[Photo], float]]:
        """What two pictures are drawn from: photos that one table speaks of, or scenes; and how often an epoch does."""
        found: list[tuple[Existence | None, list[Photo], float]] = [(None, [], self.config.scenes_per_epoch)]
        photos: defaultdict[str, list[Photo]] = defaultdict(list)
        for photo in self._photo.values():
            photos["captioned" if photo.mentions else photo.source].append(photo)
        for kind, some in photos.items():
            if (table := self._existence.get(kind)) is not None:
                found.append((table, some, sum(self.config.photos[photo.source] for photo in some)))
        return found

    def _two_pictures(self, rng: random.Random) -> Sample:
        weights = [shown for *_, shown in self._alike]
        if not sum(weights):
            return Sample((), ())
        table, photos, _ = rng.choices(self._alike, weights=weights)[0]
        if table is None:
            images = tuple(self.scene_image(rng.randrange(self.config.scenes)) for _ in range(2))
            scenes = [image.scene for image in images if image.scene is not None]
            turns = scene_pair((scenes[0], scenes[1]), self.config.turns, rng)
        else:
            one, two = (rng.choice(photos) for _ in range(2))
            images = tuple(self.photo_image(p, rng.randrange(self._views(p.source))) for p in (one, two))
            turns = photo_pair((one, two), (images[0].view, images[1].view), table, self.config.turns, rng)
        return Sample(images, turns, multi_turn=rng.random() < self.config.multi_turn)

    def _turns(self, weights: Mapping[str, float], candidates, rng: random.Random) -> tuple[Turn, ...]:
        """Up to `turns` turns, their sorts drawn by weight among those that the image allows."""
        talked_of = [sort for sort in TALKED_OF if weights.get(sort)]
        weights = dict(weights)
        cache: dict[str, list[Turn]] = {}
        used: Counter[str] = Counter()
        turns: list[Turn] = []
        while weights and len(turns) < self.config.turns:
            sort = rng.choices(list(weights), weights=list(weights.values()))[0]
            if sort == TALK:
                cache[sort] = _talk({sort: list(candidates(sort)) for sort in talked_of}, rng)
            elif sort not in cache or sort in ("existence", "absent"):  # these draw a single turn anew each time
                cache[sort] = list(candidates(sort))
            if not cache[sort]:
                del weights[sort]
                continue
            # One of something is so usual that it would drown the other numbers.
            odds = [0.2 if turn.facts["kind"] == "count" and turn.answer == "1" else 1.0 for turn in cache[sort]]
            turn = cache[sort].pop(rng.choices(range(len(odds)), weights=odds)[0])
            used[sort] += 1
            if used[sort] >= self.config.most.get(sort, _MOST.get(sort, 2)):
                del weights[sort]
            if any((turn.question, turn.history) == (other.question, other.history) for other in turns):
                continue
            if sort != TALK and turn.task in (Task.VQA, Task.CAPTION) and rng.random() < self.config.untagged:
                turn = replace(turn, question=turn.question.removeprefix(turn.task.tag).strip())
            if sort != TALK and self.config.typed and rng.random() < self.config.typed:
                turn = as_typed(turn, rng)
            turns.append(turn)
        return tuple(turns)


def _talk(found: Mapping[str, Sequence[Turn]], rng: random.Random) -> list[Turn]:
    """A later turn of a conversation about one of the questions that an image allows, by sort; or none."""
    asked = [turns for turns in found.values() if turns]
    if not asked:
        return []
    others = [turn.answer for turns in asked for turn in turns]
    talk = talk_about(rng.choice(rng.choice(asked)), others, rng)
    return [talk] if talk else []


def _view(seed: str, number: int) -> View:
    if number == 0:
        return WHOLE
    if number == 1:
        return View(flip=True)
    rng = random.Random(f"view {seed} {number}")
    area, aspect = rng.uniform(0.45, 0.9), math.exp(rng.uniform(-0.25, 0.25))
    width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return View(Box(x, y, min(1.0, x + width), min(1.0, y + height)), flip=rng.random() < 0.5)
