"""The projector's start in closed form: grounded phrases say which words belong to which visual tokens.

Ridge regression from what the projector sees to the language model's embeddings of the words that boxes are named by.
A minute of this stands for hours of training from a random projector (measured in docs/training.md).
"""

import re
from collections.abc import Callable, Sequence
from functools import cache

import torch

from fourfold.assistant.english import words_in
from fourfold.assistant.grounding import Box
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.assistant.model.modeling_minigpt_v2 import fold_tokens
from fourfold.assistant.training.data.mixture import Mixture
from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.features import FeatureStore

GroundedImage = tuple[ImageRef, Sequence[tuple[str, Sequence[Box]]]]

_UNSPOKEN = words_in(
    "a an the of in on at with and his her their its some other another this that is are to by for from it "
    "one two three four small large big little young old"
)
_LEAST_OVERLAP = 0.2  # a token of which a box covers less says little of what is in the box


def grounded_images(mixture: Mixture, scenes: int = 300) -> list[GroundedImage]:
    """Images of a mixture with the names of their boxes: whole photos, and some scenes."""
    found: list[GroundedImage] = []
    for photos in mixture.photos.values():
        for photo in photos:
            named = [(name, thing.boxes) for thing in photo.things for name in thing.names[:3]]
            if named:
                found.append((mixture.photo_image(photo, 0), named))
    for number in range(min(scenes, mixture.config.scenes)):
        image = mixture.scene_image(number)
        assert image.scene is not None
        found.append((image, [(f"{item.colour} {item.shape}", (item.box,)) for item in image.scene.items]))
    return found


def word_target(phrase: str, tokenizer, embeddings: torch.Tensor) -> torch.Tensor | None:
    """(width,) mean embedding of a phrase's words, the last one counting half; None where no word says anything."""
    words = [word for word in re.findall(r"[a-z]+", phrase.lower()) if word not in _UNSPOKEN]
    if not words:
        return None
    pieces = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    every = embeddings[[piece for word in pieces for piece in word]].mean(0)
    return (every + embeddings[pieces[-1]].mean(0)) / 2


def coverage(boxes: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(boxes, rows * columns), 0..1, in reading order: the part of each cell of a grid that each box covers.

    Boxes are (boxes, 4), x1 y1 x2 y2 in 0..1.
    """

    def along(low: torch.Tensor, high: torch.Tensor, cells: int) -> torch.Tensor:
        edge = torch.arange(cells, dtype=boxes.dtype)
        return (torch.minimum(high[:, None] * cells, edge + 1) - torch.maximum(low[:, None] * cells, edge)).clamp(min=0)

    across, down = along(boxes[:, 0], boxes[:, 2], columns), along(boxes[:, 1], boxes[:, 3], rows)
    return (down[:, :, None] * across[:, None, :]).flatten(1)


def token_targets(
    named: Sequence[tuple[str, Sequence[Box]]],
    target_of: Callable[[str], torch.Tensor | None],
    rows: int,
    columns: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each visual token of an image should say: the mean of its boxes' words, weighted by overlap.

    A box as large as the image names every token a little; small boxes are surer. Hence the weight 1 - 0.8 * area.

    Returns:
        Places (n,) of tokens that some box names, and their targets (n, width).
    """
    pairs = [(box, target) for name, boxes in named if (target := target_of(name)) is not None for box in boxes]
    if not pairs:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, 0)
    boxes = torch.tensor([box.as_tuple() for box, _ in pairs])
    area = torch.tensor([box.area for box, _ in pairs])
    weight = coverage(boxes, rows, columns) * (1 - 0.8 * area[:, None])
    weight = torch.where(weight > _LEAST_OVERLAP, weight, 0.0)
    total = weight.sum(0)
    places = total.nonzero().flatten()
    return places, (weight.T @ torch.stack([target for _, target in pairs]))[places] / total[places, None]


def ridge(inputs: torch.Tensor, outputs: torch.Tensor, count: int, penalty: float) -> torch.Tensor:
    """W, (features, width), of (X'X + penalty * count * I) W = X'Y.

    Args:
        inputs: X'X, (features, features), float64.
        outputs: X'Y, (features, width), float64.
        count: rows of X.
        penalty: relative to them.
    """
    identity = torch.eye(len(inputs), dtype=inputs.dtype, device=inputs.device)
    return torch.linalg.solve(inputs + penalty * count * identity, outputs)


@torch.no_grad()
def projector_inputs(model: MiniGPTv2ForConditionalGeneration, features: torch.Tensor) -> torch.Tensor:
    """(images, grid width², vision width) → (images, image tokens, fold * vision width): all but the projector."""
    inner = model.model
    hidden = inner.vision_norm(features.to(inner.projector.weight))
    return fold_tokens(hidden, inner.config.fold)


@torch.no_grad()
def closed_form_projector(
    model: MiniGPTv2ForConditionalGeneration,
    tokenizer,
    store: FeatureStore,
    images: Sequence[GroundedImage],
    penalty: float = 0.02,
) -> int:
    """Set the model's projector by ridge regression; its outputs get the embeddings' standard deviation.

    The penalty is relative to the number of tokens; larger means smoother.

    Returns:
        How many visual tokens had a name.

    Raises:
        ValueError: no image has a named box.
    """
    device = model.device
    embeddings = model.get_input_embeddings().weight.detach().float().cpu()
    rows = model.config.grid_width
    columns = rows // model.config.fold
    target_of = cache(lambda phrase: word_target(phrase, tokenizer, embeddings))
    projector = model.model.projector
    width = projector.in_features + 1  # the last input is the constant 1
    squares = torch.zeros(width, width, dtype=torch.float64, device=device)
    products = torch.zeros(width, projector.out_features, dtype=torch.float64, device=device)
    count = 0
    for start in range(0, len(images), 64):
        part = images[start : start + 64]
        seen = projector_inputs(model, store.get([image for image, _ in part]).to(device)).float()
        pairs = []
        for tokens, (_, named) in zip(seen, part, strict=True):
            places, targets = token_targets(named, target_of, rows, columns)
            if len(places):
                pairs.append((tokens[places.to(device)], targets.to(device)))
        if pairs:
            x, y = (torch.cat(side) for side in zip(*pairs, strict=True))
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            squares += (x.T @ x).double()
            products += (x.T @ y).double()
            count += len(x)
    if not count:
        raise ValueError("no image has a named box to start the projector from")
    solution = ridge(squares, products, count, penalty).float()
    sample = projector_inputs(model, store.get([image for image, _ in images[:200]]).to(device)).float()
    scale = embeddings.std().to(device) / (sample @ solution[:-1] + solution[-1]).std()
    projector.weight.copy_(solution[:-1].T * scale)
    projector.bias.copy_(solution[-1] * scale)
    return count
