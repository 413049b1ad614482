"""A library for a checkpoint from annotated pictures: their features are computed once and kept, then learnt from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.readouts.annotations import Annotated
from fourfold.assistant.readouts.features import normalised
from fourfold.assistant.readouts.learning import learn_library
from fourfold.assistant.readouts.library import ReadoutLibrary
from fourfold.assistant.readouts.storage import load_readouts, shipped_library
from fourfold.assistant.training.features import FeatureStore


def learn_from_pictures(
    pictures: Sequence[Annotated],
    checkpoint: Path,
    features: Path,
    *,
    steps: int = 4000,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    on_progress: OnProgress = lambda event: None,
) -> ReadoutLibrary:
    """Learn a library for a checkpoint's tower.

    Args:
        pictures: to learn from.
        checkpoint: its directory. Its present library, or the shipped one, helps out where there are few boxes: what
            makes boxes of maps knows no tower, for maps are in standard deviations.
        features: directory in which features are kept; what is there is not computed again.
        steps, seed, provenance: of `learn_library`.
        on_progress: told how far it is.

    Raises:
        UserError: a picture cannot be read, or there are too few boxes.
    """
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    store = FeatureStore(model, AutoProcessor.from_pretrained(checkpoint, trust_remote_code=False), features)
    missing = [image for image, _ in pictures if image not in store]
    if missing:
        store.compute(missing, on_progress=lambda done: on_progress(Progress("features", done, len(missing))))
    images = {image.key: image for image, _ in pictures}

    def features_of(key: str) -> np.ndarray:
        [found] = store.get([images[key]])
        side = round(len(found) ** 0.5)
        return normalised(found.to(torch.float32).numpy().reshape(side, side, -1))

    examples = [example for _, example in pictures]
    return learn_library(
        examples,
        features_of,
        tower_fingerprint(checkpoint),
        base=load_readouts(checkpoint) or shipped_library(),
        steps=steps,
        seed=seed,
        provenance=provenance,
        on_progress=on_progress,
    )
