"""The projector's start in closed form: grounded phrases say which words belong to which visual tokens.

Ridge regression from what the projector sees to the language model's embeddings of the words that boxes are named by,
or to those words themselves, whose embeddings are made less alike first.
A minute of this stands for hours of training from a random projector (measured in docs/training.md).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch

from fourfold.assistant.english import words_in
from fourfold.assistant.grounding import Box
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.assistant.training.data.mixture import Mixture
from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.features import FeatureStore
from fourfold.prompts.errors import UserError

GroundedImage = tuple[ImageRef, Sequence[tuple[str, Sequence[Box]]]]

_UNSPOKEN = words_in(
    "a an the of in on at with and his her their its some other another this that is are to by for from it "
    "one two three four small large big little young old"
)
_LEAST_OVERLAP = 0.2  # a token of which a box covers less says little of what is in the box
_LEAST_NAMES = 5  # names with a word in them; what fewer say of it is chance


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


def spoken(phrase: str) -> list[str]:
    """The words of a phrase that say what there is, in their order, small."""
    return [word for word in re.findall(r"[a-z]+", phrase.lower()) if word not in _UNSPOKEN]


def word_target(phrase: str, tokenizer, embeddings: torch.Tensor) -> torch.Tensor | None:
    """(width,) mean embedding of a phrase's words, the last one counting half; None where no word says anything."""
    words = spoken(phrase)
    if not words:
        return None
    pieces = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    every = embeddings[[piece for word in pieces for piece in word]].mean(0)
    return (every + embeddings[pieces[-1]].mean(0)) / 2


def word_shares(phrase: str, words: Mapping[str, int]) -> torch.Tensor | None:
    """(words,) parts of a phrase's words, the last one counting half, of 1 together with those that `words` lacks.

    Args:
        words: number of each word; None is returned where the phrase has none of them.
    """
    said = spoken(phrase)
    shares = torch.zeros(len(words))
    for place, word in enumerate(said):
        if word in words:
            shares[words[word]] += (1 / len(said) + (place == len(said) - 1)) / 2
    return shares if shares.any() else None


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
    return inner.fold(hidden)


def named_tokens(
    model: MiniGPTv2ForConditionalGeneration,
    store: FeatureStore,
    images: Sequence[GroundedImage],
    target_of: Callable[[str], torch.Tensor | None],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Visual tokens that some box names, (n, fold * vision width), and their targets (n, width), some images at a time.

    Both are on the model's device.
    """
    device = model.device
    rows, columns = model.config.token_grid
    for start in range(0, len(images), 64):
        part = images[start : start + 64]
        seen = projector_inputs(model, store.get([image for image, _ in part]).to(device)).float()
        found = [token_targets(named, target_of, rows, columns) for _, named in part]
        pairs = [(tokens[at.to(device)], to) for tokens, (at, to) in zip(seen, found, strict=True) if len(at)]
        if pairs:
            yield torch.cat([tokens for tokens, _ in pairs]), torch.cat([targets for _, targets in pairs]).to(device)


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
    target_of = cache(lambda phrase: word_target(phrase, tokenizer, embeddings))
    projector = model.model.projector
    width = projector.in_features + 1  # the last input is the constant 1
    squares = torch.zeros(width, width, dtype=torch.float64, device=device)
    products = torch.zeros(width, projector.out_features, dtype=torch.float64, device=device)
    count = 0
    for tokens, targets in named_tokens(model, store, images, target_of):
        x = torch.cat([tokens, tokens.new_ones(len(tokens), 1)], 1)
        squares += (x.T @ x).double()
        products += (x.T @ targets).double()
        count += len(x)
    if not count:
        raise ValueError("no image has a named box to start the projector from")
    solution = ridge(squares, products, count, penalty).float()
    sample = projector_inputs(model, store.get([image for image, _ in images[:200]]).to(device)).float()
    scale = embeddings.std().to(device) / (sample @ solution[:-1] + solution[-1]).std()
    projector.weight.copy_(solution[:-1].T * scale)
    projector.bias.copy_(solution[-1] * scale)
    return count


def apart(embeddings: torch.Tensor, shrinkage: float = 0.1) -> torch.Tensor:
    """Embeddings (words, width) about their mean, whitened: C^-1/2 of their covariance C.

    Args:
        shrinkage: part of the mean variance that is added to each direction's, so that small ones do not drown all.
    """
    centred = embeddings - embeddings.mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    return centred @ (axes * (variances + shrinkage * variances.mean()).rsqrt()) @ axes.T


@torch.no_grad()
def discriminant_projector(
    model: MiniGPTv2ForConditionalGeneration,
    tokenizer,
    store: FeatureStore,
    images: Sequence[GroundedImage],
    shrinkage: float = 0.3,
    rarity: float = 0.25,
) -> int:
    """Set the model's projector by linear discriminants of the words that name tokens.

    `closed_form_projector` aims at embeddings, which lie close together: what all words share is most of its outputs.
    Here each word's discriminant, inv(C + shrinkage * mean variance) (m - mu) with mean and covariance of the named
    tokens, goes to its embedding as `apart` has it. Outputs get the mean of the words' embeddings and their distance
    from it on average, over the named tokens.

    Args:
        shrinkage: part of the mean variance of the projector's inputs that is added to each; larger means smoother.
        rarity: a word that a part p of the tokens has counts p ** -rarity as much: 0 is least squares, and leaves rare
            words out; 1 gives all words outputs of one length.

    Returns:
        How many visual tokens had a name.

    Raises:
        UserError: fewer than two words are in five names.
    """
    device = model.device
    counts = Counter(word for _, named in images for name, _ in named for word in set(spoken(name)))
    words = {word: place for place, word in enumerate(sorted(w for w, n in counts.items() if n >= _LEAST_NAMES))}
    if len(words) < 2:
        raise UserError(
            f"the start from discriminants needs two words that name {_LEAST_NAMES} boxes each; "
            f"here {'is one' if words else 'are none'}: add images, or set start: random"
        )
    shares_of = cache(lambda phrase: word_shares(phrase, words))
    projector = model.model.projector
    width = projector.in_features
    squares = torch.zeros(width, width, dtype=torch.float64, device=device)
    products = torch.zeros(width, len(words), dtype=torch.float64, device=device)
    total, shares = squares.new_zeros(width), squares.new_zeros(len(words))
    count = 0
    for tokens, named in named_tokens(model, store, images, shares_of):
        squares += (tokens.T @ tokens).double()
        products += (tokens.T @ named).double()
        total += tokens.double().sum(0)
        shares += named.double().sum(0)
        count += len(tokens)
    mean, part = total / count, shares / count
    covariance = squares / count - torch.outer(mean, mean)
    weights = part.clamp(min=1 / count) ** -rarity
    pieces = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    table = model.get_input_embeddings().weight.detach()
    embeddings = torch.stack([table[piece].double().mean(0) for piece in pieces])
    towards = (products / count - torch.outer(mean, part)) @ (weights[:, None] * apart(embeddings))
    solution = ridge(covariance, towards, 1, shrinkage * float(covariance.trace()) / width)
    length = (embeddings - embeddings.mean(0)).square().sum(1).mean()
    solution *= (length / ((covariance @ solution) * solution).sum()).sqrt()
    projector.weight.copy_(solution.T)
    projector.bias.copy_(embeddings.mean(0) - mean @ solution)
    return count
