"""The checkpoint that a recipe starts from."""

import hashlib
import json
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.training.recipe import Recipe


def load_base(recipe: Recipe, base: str | None = None) -> tuple[MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor]:
    """Model (float32) and processor of the recipe's base, or of `base` in its place.

    A recipe that asks for another image size, number of blocks or a vision block has that variant of the default
    model assembled in the cache first.

    Raises:
        UserError: the checkpoint cannot be had.
    """
    directory = _variant(recipe) or resolve_model(base or recipe.base)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(directory)


def _variant(recipe: Recipe) -> Path | None:
    changes = {
        name: value
        for name in ("image_size", "blocks", "vision_llm_block")
        if (value := getattr(recipe, name)) is not None
    }
    if not changes:
        return None
    from fourfold.assistant.checkpoints.cache import cache_directory
    from fourfold.assistant.checkpoints.mini import assemble

    digest = hashlib.blake2b(json.dumps(changes, sort_keys=True).encode(), digest_size=6).hexdigest()
    directory = cache_directory() / "variants" / digest
    if not directory.exists():
        assemble(directory, bridge=None, **changes)
    return directory
