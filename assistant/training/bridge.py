"""What a run hands on: projector and adapter in float16, and where they come from."""

import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fourfold.assistant.training.recipe import Recipe
from fourfold.assistant.training.trainable_model import TrainableModel

DATA_NOTE = (
    "Trained on photos for research use (Flickr8k with Flickr30k Entities annotations: Flickr terms, non-commercial "
    "research; DAQUAR / NYU Depth V2: research; ImageNet sample: ImageNet terms, research; COCO annotations CC BY 4.0; "
    "VOC 2012 and Raccoon samples) and on scenes rendered by this repository. No photo is part of the bridge."
)


def export_bridge(
    directory: Path, learner: TrainableModel, recipe: Recipe, step: int, history: Mapping[str, Any]
) -> Path:
    """Write `projector.safetensors`, the adapter and `bridge.json`, all at once.

    Args:
        directory: where to; an earlier bridge there is replaced.
        learner: the trained parts.
        recipe: how they were trained.
        step: after how many optimiser steps.
        history: what the run knows of itself: sequences, tokens, minutes, the last held-out figures.

    Returns:
        `directory`.
    """
    import peft
    import transformers
    from safetensors.torch import save_file

    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    projector = learner.model.model.projector
    save_file(
        {name: p.detach().half().cpu().contiguous() for name, p in projector.named_parameters()},
        building / "projector.safetensors",
    )
    learner.save_adapter(building)
    config = learner.model.config
    mixture = asdict(recipe.mixture)
    about = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "base": recipe.base,
        "geometry": {
            "image_size": config.vision_config.image_size,
            "blocks": config.vision_config.num_hidden_layers,
            "vision_llm_block": config.vision_llm_block,
        },
        "data": {"photos": mixture["photos"], "scenes": mixture["scenes"], "note": DATA_NOTE},
        "steps": step,
        "seed": recipe.seed,
        "recipe": asdict(recipe),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        **history,
    }
    (building / "bridge.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for path in building.iterdir():
        path.chmod(0o644)  # some are written private, and a bridge is made to be shipped
    building.chmod(0o755)
    if directory.exists():
        # A directory cannot be replaced in one step; the old one is moved away first and is whole until then.
        old = building.with_name(f"{building.name}.old")
        directory.replace(old)
        building.replace(directory)
        shutil.rmtree(old)
    else:
        building.replace(directory)
    return directory
