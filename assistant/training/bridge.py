"""What a run hands on: projector and adapter in float16, and where they come from."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from fourfold.assistant.files import building
from fourfold.assistant.training.recipe import Recipe
from fourfold.assistant.training.trainable_model import TrainableModel

DATA_NOTE = (
    "Trained on photos for research use (Flickr8k with Flickr30k Entities annotations: Flickr terms, non-commercial "
    "research; DAQUAR / NYU Depth V2: research; ImageNet sample: ImageNet terms, research; COCO annotations CC BY 4.0; "
    "VOC 2012 and Raccoon samples) and on scenes rendered by this repository. No photo is part of the bridge."
)


def export_bridge(
    directory: Path, trainable: TrainableModel, recipe: Recipe, step: int, history: Mapping[str, Any]
) -> None:
    """Write `projector.safetensors`, the adapter and `bridge.json` of a run after `step` steps, all at once.

    An earlier bridge in `directory` is replaced. `history` is what the run knows of itself: sequences, tokens, seconds,
    the last held-out figures.
    """
    config = trainable.model.config
    about = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "base": recipe.base,
        "geometry": {
            "image_size": config.vision_config.image_size,
            "blocks": config.vision_config.num_hidden_layers,
            "fold_shape": config.fold_shape,
            "vision_llm_block": recipe.vision_llm_block,
        },
        "data": {"photos": recipe.mixture.photos, "scenes": recipe.mixture.scenes, "note": DATA_NOTE},
        "steps": step,
        "seed": recipe.seed,
        "recipe": asdict(recipe),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
        **history,
    }
    named = trainable.model.model.projector.named_parameters()
    with building(directory, replace=True) as part:
        save_file({name: p.detach().half().cpu().contiguous() for name, p in named}, part / "projector.safetensors")
        trainable.save_adapter(part)
        (part / "bridge.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
