"""How alike the image tower finds copies of one photo, and different photos: where the memory's threshold may lie.

    PYTHONPATH=. python3 -m benchmarks.recall --photos 100 --features FEATURES

Copies are what people make of a photo: saved again as a small JPEG, scaled to half, brightened, cut at the edges. For
every photo the most similar other photo is found among all whose features are kept (`fourfold train features`).
Prints a table and, last, one JSON object.
"""

import argparse
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.refine.encoder import ImageEncoder
from fourfold.assistant.training.data.photos import read_photos
from fourfold.assistant.training.data.sample import photos_directory

THRESHOLDS = (0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995)


def saved(image: Image.Image) -> Image.Image:
    """As a JPEG of quality 50."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def halved(image: Image.Image) -> Image.Image:
    """At half the size; photos of 500 pixels are then smaller than what the tower reads."""
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)))


def cut(part: float) -> Callable[[Image.Image], Image.Image]:
    """The middle of the image, `part` of each side."""

    def crop(image: Image.Image) -> Image.Image:
        dx, dy = (round(side * (1 - part) / 2) for side in image.size)
        return image.crop((dx, dy, image.width - dx, image.height - dy))

    return crop


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 50": saved,
    "half size": halved,
    "half size, JPEG of quality 50": lambda image: saved(halved(image)),
    "brighter by a fifth": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "95 % of each side": cut(0.95),
    "85 % of each side": cut(0.85),
}


def kept_vectors(directory: Path) -> dict[str, np.ndarray]:
    """Mean features by photo id from `FeatureStore`'s files, of length 1."""
    from safetensors import safe_open

    found = {}
    for path in sorted(directory.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            means = file.get_slice("features")[:].float().mean(1).numpy()
            for key, mean in zip(json.loads(file.metadata()["keys"]), means, strict=True):
                found[key] = mean / np.linalg.norm(mean)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=100, help="photos of which copies are made")
    parser.add_argument("--features", type=Path, required=True, help="directory of kept features")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    kept = {key: vector for key, vector in kept_vectors(options.features).items() if not key.startswith("scenes/")}
    photos = [photo for photo in read_photos(photos_directory()) if photo.id in kept]
    order = random.Random(0).sample(photos, len(photos))
    names, table = list(kept), np.stack(list(kept.values()))
    encoder = ImageEncoder(resolve_model())
    alike: dict[str, list[float]] = {name: [] for name in ("itself", *COPIES)}
    for number, photo in enumerate(order[: options.photos]):
        with Image.open(photos_directory() / photo.path) as opened:
            image = opened.convert("RGB")
        vectors = encoder.vectors([image, *(change(image) for change in COPIES.values())])
        # The kept features were computed in bfloat16; "itself" says what that does.
        for name, vector in zip(alike, vectors, strict=True):
            alike[name].append(float(vector @ (kept[photo.id] if name == "itself" else vectors[0])))
        print(f"{number + 1} photos", {name: round(values[-1], 4) for name, values in alike.items()}, flush=True)
    nearest = []
    for photo in photos:
        likeness = table @ kept[photo.id]
        likeness[names.index(photo.id)] = -1
        nearest.append(float(likeness.max()))
    rows = {**alike, f"most similar other photo of {len(names)}": nearest}
    print(f"{'':44}   least     5 %  median" + "".join(f"{t:8}" for t in THRESHOLDS))
    for name, values in rows.items():
        figures = [min(values), *np.quantile(values, [0.05, 0.5])]
        shares = [f"{100 * np.mean(np.array(values) >= t):7.1f}%" for t in THRESHOLDS]
        print(f"{name:44}" + "".join(f"{figure:8.4f}" for figure in figures) + "".join(shares))
    told = {
        name: {str(t): round(float(np.mean(np.array(values) >= t)), 5) for t in THRESHOLDS}
        for name, values in rows.items()
    }
    print(json.dumps({"photos": options.photos, "encoder": encoder.name, "at_least": told}))


if __name__ == "__main__":
    main()
