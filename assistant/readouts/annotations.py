"""Annotated folders as examples: COCO's JSON, our JSON Lines, and rendered scenes."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fourfold.assistant.english import colour_of, singular
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import load_image_file
from fourfold.assistant.readouts.example import Example, NamedThing
from fourfold.assistant.training.data.photos import Photo, Thing, read_photos
from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.data.scenes import SHAPES, make_scene
from fourfold.assistant.training.data.surfaces import DEFECTS, make_surface
from fourfold.prompts.errors import UserError

SCENES, SURFACES = "scenes", "surfaces"
"""Domains of rendered pictures."""


@dataclass(frozen=True)
class FileImage(ImageRef):
    """A picture of a folder.

    Attributes:
        file: where it is.
    """

    file: Path = Path()

    def open(self) -> Image.Image:
        """The pixels, upright, RGB.

        Raises:
            UserError: the file cannot be read as a picture.
        """
        return load_image_file(self.file)


@dataclass(frozen=True)
class SurfaceImage(ImageRef):
    """A rendered surface.

    Attributes:
        name: from which it follows.
    """

    name: str = ""

    def open(self) -> Image.Image:
        """The pixels, RGB."""
        return make_surface(self.name).render()


Annotated = tuple[ImageRef, Example]
"""A picture and what is in it; the example's key is the picture's."""


def read_annotations(folder: Path, file: Path) -> list[Annotated]:
    """The annotated pictures of a folder, those without any box and those that are held out excepted.

    Args:
        folder: that the file's image names are relative to.
        file: COCO's JSON (`images`, `annotations` with `bbox`, `categories`) or JSON Lines (`id, image, width, height`
            and `boxes [{box: xyxy pixels, label}]` or `phrases [{phrase, boxes, ...}]`); a line with `"split":
            "heldout"` is left out.

    Raises:
        UserError: a file or a picture is missing, or the annotations are not of these forms.
    """
    if not file.is_file():
        raise UserError(f"there are no annotations at {file}")
    if file.suffix == ".jsonl":
        found = _of_lines(folder, file)
    elif file.suffix == ".json":
        found = _of_coco(folder, file)
    else:
        raise UserError(f"{file.name} is neither COCO's .json nor a .jsonl file")
    if not found:
        raise UserError(f"{file} has no box that can be learnt from")
    for image, _ in found:
        if isinstance(image, FileImage) and not image.file.is_file():
            raise UserError(f"{file.name} names the picture {image.file.name}, which is not in {folder}")
    return found


def photo_example(photo: Photo, vocabulary: frozenset[str] = frozenset()) -> Example:
    """An annotated photo as an example; `vocabulary` as `Example` has it."""
    things = tuple(NamedThing(thing.nouns, thing.boxes, _colours(thing)) for thing in photo.things if thing.nouns)
    return Example(photo.id, things, photo.mentioned, vocabulary)


def scene_examples(count: int, seed: int = 3) -> list[Annotated]:
    """Rendered scenes, the training ones of this seed: every shape with its colour, and written words."""
    found = []
    for number in range(count):
        scene = make_scene(f"scenes/train-{seed}-{number}")
        things = [NamedThing((item.shape,), (item.box,), (item.colour,)) for item in scene.items]
        if scene.word_box is not None:
            things.append(NamedThing(("word",), (scene.word_box,)))
        example = Example(scene.id, tuple(things), vocabulary=frozenset({*SHAPES, "word"}), domain=SCENES)
        found.append((ImageRef(scene.id, scene=scene), example))
    return found


def surface_examples(count: int) -> list[Annotated]:
    """Rendered surfaces with scratches, stains and dents; a scratch has a box for each of its pieces."""
    found: list[Annotated] = []
    for number in range(count):
        surface = SurfaceImage(f"surfaces/learn-{number}", name=f"learn {number}")
        things = tuple(NamedThing((defect.kind,), defect.boxes) for defect in make_surface(surface.name).defects)
        vocabulary = frozenset(DEFECTS)
        found.append((surface, Example(surface.key, things, vocabulary=vocabulary, domain=SURFACES, parts=True)))
    return found


def _colours(thing: Thing) -> tuple[str, ...]:
    """The colour that most of a thing's names with a colour give it."""
    said = Counter(colour for name in thing.names if (colour := colour_of(name)))
    return tuple(colour for colour, _ in said.most_common(1))


def _of_lines(folder: Path, file: Path) -> list[Annotated]:
    try:
        photos = read_photos(file.parent, [file.stem])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not in the form of our JSON Lines (id, image, width, height, split, and boxes or phrases): "
            f"{type(error).__name__} {error}"
        ) from error
    captioned = any(photo.mentions for photo in photos)
    nouns = {noun for photo in photos for thing in photo.things for noun in thing.nouns}
    vocabulary = frozenset() if captioned else frozenset(nouns)
    return [
        (FileImage(photo.id, file=folder / photo.path), photo_example(photo, vocabulary))
        for photo in photos
        if photo.things and not photo.held_out
    ]


def _of_coco(folder: Path, file: Path) -> list[Annotated]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        names = {category["id"]: str(category["name"]).lower() for category in told["categories"]}
        boxes: dict[Any, dict[str, list[Box]]] = defaultdict(lambda: defaultdict(list))
        sizes = {image["id"]: (image["width"], image["height"]) for image in told["images"]}
        for annotation in told["annotations"]:
            if annotation.get("iscrowd"):
                continue
            x, y, width, height = annotation["bbox"]
            box = Box.from_pixels((x, y, x + width, y + height), *sizes[annotation["image_id"]])
            boxes[annotation["image_id"]][names[annotation["category_id"]]].append(box)
        pictures = [(image["id"], str(image["file_name"])) for image in told["images"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not in COCO's form: {type(error).__name__} {error}") from error
    vocabulary = frozenset(map(_noun_of_label, names.values()))
    found: list[Annotated] = []
    for image, name in pictures:
        things = tuple(NamedThing((_noun_of_label(label),), tuple(there)) for label, there in boxes[image].items())
        if things:
            picture = folder / name
            changed = picture.stat().st_mtime_ns if picture.is_file() else 0  # features are kept by the key
            key = f"{file.stem}/{name} {changed}"
            found.append((FileImage(key, file=picture), Example(key, things, vocabulary=vocabulary)))
    return found


def _noun_of_label(label: str) -> str:
    """ "Traffic_lights" → "traffic light"."""
    *first, last = label.replace("_", " ").split() or [label]
    return " ".join([*first, singular(last)])
