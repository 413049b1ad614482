"""Controls of a run: what the model gets to see and what is done to it, to find out what its answers hang on."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from PIL import Image

from fourfold.eval.benchmarks.benchmark import Benchmark, right_answer
from fourfold.eval.prompting import PromptConfig, prompt_of
from fourfold.eval.task import ImageSource, Sample
from fourfold.prompts.errors import UserError


class Control(StrEnum):
    """What the model gets to see.

    NONE: the question's own image. BLIND: no image, the same prompt. WRONG_IMAGE: another question's image. TEXT_ONLY:
    no image and the bare question, without the prompt's words about one.
    """

    NONE = "none"
    BLIND = "blind"
    WRONG_IMAGE = "wrong-image"
    TEXT_ONLY = "text-only"


class Perturbation(StrEnum):
    """A disturbance of every question of a run.

    PATCH_SHUFFLE: the image cut into 8 x 8 pieces and put together in another order; what survives needs no layout.
    DISTRACTOR: the prompt begins with somebody's wrong claim about the answer; what changes was not seen.
    """

    NONE = "none"
    PATCH_SHUFFLE = "patch-shuffle"
    DISTRACTOR = "distractor"


def prepare(
    bench: Benchmark,
    samples: Sequence[Sample],
    find: Callable[[str], ImageSource | None],
    *,
    control: Control,
    perturbation: Perturbation,
    config: PromptConfig,
    seed: int,
) -> list[Sample]:
    """What to ask for each sample of a benchmark's files; `find` gives an image by its name.

    The wrong image is that of another sample, drawn by the seed among the images of this run.

    Raises:
        UserError: only one image is there, so that none is a wrong one; or no wrong answer in words can be claimed.
    """
    images = list(dict.fromkeys(sample.cluster for sample in samples))
    if control is Control.WRONG_IMAGE:
        images = [name for name in images if find(name) is not None]  # a question without an image keeps none
    if control is Control.WRONG_IMAGE and len(images) < 2:
        raise UserError("the control wrong-image needs questions about at least two images")
    rng = random.Random(seed)
    # Each image is exchanged for the next one of a shuffled ring, so none keeps its own.
    rng.shuffle(images)
    following = dict(zip(images, images[1:] + images[:1], strict=True))
    claims = [""] * len(samples)
    if perturbation is Perturbation.DISTRACTOR:
        claims = wrong_claims(samples, seed)
        if not any(claims):
            raise UserError(
                f"the probe distractor claims a wrong answer in words; these questions of {bench.name} have none"
            )
    edit = Shuffle(seed=seed) if perturbation is Perturbation.PATCH_SHUFFLE else None
    asked = []
    for sample, claim in zip(samples, claims, strict=True):
        image: ImageSource | None = None
        if control is Control.NONE:
            image = find(sample.cluster)
        elif control is Control.WRONG_IMAGE and sample.cluster in following:
            image = find(following[sample.cluster])
        prompt = sample.prompt if control is Control.TEXT_ONLY else prompt_of(bench, sample.prompt, config)
        asked.append(replace(sample, prompt=with_claim(prompt, claim), image=image, edit=edit if image else None))
    return asked


@dataclass(frozen=True)
class Shuffle:
    """Cut an image into `grid` x `grid` equal pieces and reorder them by the seed; the rest at the edges stays."""

    grid: int = 8
    seed: int = 0

    def __call__(self, image: Image.Image) -> Image.Image:
        """The reordered image, of the same size."""
        width, height = image.width // self.grid, image.height // self.grid
        if not width or not height:
            return image
        corners = [(x * width, y * height) for y in range(self.grid) for x in range(self.grid)]
        order = list(corners)
        random.Random(self.seed).shuffle(order)
        result = image.copy()
        for (x, y), (to_x, to_y) in zip(corners, order, strict=True):
            result.paste(image.crop((x, y, x + width, y + height)), (to_x, to_y))
        return result


@dataclass(frozen=True)
class PaintOut:
    """Paint boxes (x1, y1, x2, y2 in pixels) over with their surroundings, so that what was there is gone."""

    boxes: tuple[tuple[int, int, int, int], ...]

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, RGB, without what the boxes held."""
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32).copy()
        for box in self.boxes:
            _fill(pixels, box)
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _fill(pixels: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Each pixel becomes the mean of those just outside the box in its row and column, nearer ones weighing more."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    if x1 >= x2 or y1 >= y2:
        return
    rows = np.arange(y1, y2, dtype=np.float32)[:, None, None]
    columns = np.arange(x1, x2, dtype=np.float32)[None, :, None]
    total = np.zeros((y2 - y1, x2 - x1, 3), np.float32)
    weights = np.zeros((y2 - y1, x2 - x1, 1), np.float32)
    sides = []
    if x1 > 0:
        sides.append((pixels[y1:y2, x1 - 1][:, None], columns - x1 + 1))
    if x2 < width:
        sides.append((pixels[y1:y2, x2][:, None], x2 - columns))
    if y1 > 0:
        sides.append((pixels[y1 - 1, x1:x2][None], rows - y1 + 1))
    if y2 < height:
        sides.append((pixels[y2, x1:x2][None], y2 - rows))
    if not sides:  # the box is the whole image: nothing of it is left
        pixels[y1:y2, x1:x2] = 127.5
        return
    for colour, distance in sides:
        total += colour / distance
        weights = weights + 1 / distance
    pixels[y1:y2, x1:x2] = total / weights


def wrong_claims(samples: Sequence[Sample], seed: int) -> list[str]:
    """For each sample a wrong answer: no for a true yes and the reverse, else another sample's right answer."""
    rng = random.Random(seed)
    texts = [right_answer(sample) for sample in samples]
    claims = []
    for sample, text in zip(samples, texts, strict=True):
        if text in ("yes", "no"):
            claims.append("no" if text == "yes" else "yes")
        elif sample.candidates:
            claims.append(rng.choice([one for one in sample.candidates if one != text] or [""]))
        else:
            others = [other for other in texts if other != text and other not in ("yes", "no")]
            claims.append(rng.choice(others) if others else "")
    return claims


def with_claim(prompt: str, claim: str) -> str:
    """The prompt with the claim before its question and after the task tag, which must stay first."""
    if not claim:
        return prompt
    told = f'Somebody says: "It is {claim}." '
    if prompt.startswith("[") and "] " in prompt:
        tag, _, rest = prompt.partition("] ")
        return f"{tag}] {told}{rest}"
    return told + prompt
