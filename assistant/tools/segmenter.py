"""Masks from a box or a point, by MobileSAM: its TinyViT before transformers' prompt encoder and mask decoder."""

import re
import threading
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import pixel_hash
from fourfold.assistant.tools.results import Mask
from fourfold.assistant.tools.weights import SEGMENTER
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import SamModel

    from fourfold.assistant.tools.tiny_vit import TinyViT

_MEAN, _STD = (np.array(of, "float32") for of in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
_KEPT = 4  # pictures whose embedding is remembered, 4 MB each
_embeddings: "OrderedDict[str, torch.Tensor]" = OrderedDict()
_lock = threading.Lock()


def segment(image: Image.Image, *, box: Box | None = None, point: tuple[float, float] | None = None) -> Mask:
    """The pixels of the thing in a box, or at a point, or both: a box with the point that is surely of the thing.

    Args:
        image: RGB.
        box: around the thing; it must have an area.
        point: (x, y) in 0..1 of the picture. A point alone may give a part of the thing.

    Raises:
        UserError: neither is given, the box has no area, the point lies outside, or the weights cannot be had.
    """
    import torch

    if box is None and point is None:
        raise UserError("segment needs a box or a point")
    if box is not None and box.area <= 0:
        raise UserError(f"the box {box.as_tuple()} has no area; draw it around the thing")
    if point is not None and not all(0 <= side <= 1 for side in point):
        raise UserError(f"the point {point} lies outside the picture; give x and y in 0..1")
    _, model = _networks()
    width, height = _fitted(image)
    prompts: dict[str, torch.Tensor] = {}
    if box is not None:
        prompts["input_boxes"] = torch.tensor([[box.to_pixels(width, height)]])
    if point is not None:
        prompts["input_points"] = torch.tensor([[[[point[0] * width, point[1] * height]]]])
    with torch.inference_mode():
        # A point may mean a thing or a part of it, so three masks are made of it; a box says which.
        found = model(image_embeddings=_embedding(image), multimask_output=box is None, **prompts)
        best = int(found.iou_scores[0, 0].argmax())
        low = found.pred_masks[:, :, best]
        size = int(model.config.vision_config.image_size)
        square = torch.nn.functional.interpolate(low, (size, size), mode="bilinear", align_corners=False)
        fitted = square[:, :, :height, :width]
        full = torch.nn.functional.interpolate(
            fitted, (image.height, image.width), mode="bilinear", align_corners=False
        )
    pixels = (full[0, 0] > 0).numpy()
    return Mask.of(pixels, min(max(float(found.iou_scores[0, 0, best]), 0.0), 1.0))


def _fitted(image: Image.Image) -> tuple[int, int]:
    """Width and height at which a picture lies in the encoder's square, at its upper left."""
    from fourfold.assistant.tools.tiny_vit import SIDE

    scale = SIDE / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _embedding(image: Image.Image) -> "torch.Tensor":
    """(1, 256, 64, 64), from memory where the picture was seen before."""
    import torch

    from fourfold.assistant.tools.tiny_vit import SIDE

    key = pixel_hash(image)
    with _lock:
        if key in _embeddings:
            _embeddings.move_to_end(key)
            return _embeddings[key]
    encoder, _ = _networks()
    resized = image.convert("RGB").resize(_fitted(image), Image.Resampling.BILINEAR)
    values = (np.asarray(resized, np.float32) - _MEAN) / _STD
    square = torch.zeros(1, 3, SIDE, SIDE)
    square[0, :, : resized.height, : resized.width] = torch.from_numpy(values).permute(2, 0, 1)
    with torch.inference_mode():
        found = encoder(square)
    with _lock:
        _embeddings[key] = found
        while len(_embeddings) > _KEPT:
            _embeddings.popitem(last=False)
    return found


def _networks() -> "tuple[TinyViT, SamModel]":
    with _lock:  # threads that ask for it first would load it twice, and transformers cannot be imported by two at once
        return _load()


@cache
def _load() -> "tuple[TinyViT, SamModel]":
    import torch
    from transformers import SamConfig, SamModel, SamVisionConfig

    from fourfold.assistant.tools.tiny_vit import SIDE, TinyViT

    [path] = SEGMENTER.fetch()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # The classifier that the encoder was first trained with is not part of MobileSAM.
    unused = ("image_encoder.norm_head.", "image_encoder.head.")
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith(unused)}
    encoder = TinyViT()
    encoder.load_state_dict(_under(weights, "image_encoder."), strict=True)
    # Its own encoder is never used and is made as small as it can be.
    vision = SamVisionConfig(
        hidden_size=8, num_hidden_layers=0, num_attention_heads=1, num_pos_feats=128, image_size=SIDE
    )
    model = SamModel(SamConfig(vision_config=vision.to_dict()))
    place = weights.pop("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")
    named = {_renamed(key): tensor for key, tensor in weights.items() if not key.startswith("image_encoder.")}
    named["shared_image_embedding.positional_embedding"] = place
    named["prompt_encoder.shared_embedding.positional_embedding"] = place
    named |= {f"vision_encoder.{key}": tensor for key, tensor in model.vision_encoder.state_dict().items()}
    model.load_state_dict(named, strict=True)
    return encoder.eval(), model.eval()


def _under(weights: "dict[str, torch.Tensor]", prefix: str) -> "dict[str, torch.Tensor]":
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


# Segment Anything's names, and transformers' for them.
_NAMES = (
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"point_embeddings\.", "point_embed."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"(hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"transformer\.layers\.(\d)\.norm(\d)\.", r"transformer.layers.\1.layer_norm\2."),
    (r"norm_final_attn\.", "layer_norm_final_attn."),
)


def _renamed(key: str) -> str:
    for old, new in _NAMES:
        key = re.sub(old, new, key)
    return key
