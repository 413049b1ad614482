"""Features of the frozen image tower, computed once and kept."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from fourfold.assistant.files import replacing
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.model.bf16 import has_fast_bf16
from fourfold.assistant.training.data.sample import ImageRef

_SHARD = 128  # images a file; an interrupted run loses at most these


def tower_fingerprint(model: MiniGPTv2ForConditionalGeneration) -> str:
    """Short digest of the tower's weights and sizes: features belong to it, whatever is behind it."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps(model.config.vision_config.to_dict(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureStore:
    """Tower outputs by image key, in bfloat16.

    With a directory they lie there in files that several processes may add to, beside those of other towers; without
    one they are kept in the memory of the model's device.
    """

    def __init__(
        self, model: MiniGPTv2ForConditionalGeneration, processor: MiniGPTv2Processor, directory: Path | None = None
    ) -> None:
        self._model = model
        self._processor = processor
        self._directory = None if directory is None else directory / tower_fingerprint(model)
        self._files: dict[str, safe_open] = {}
        self._place: dict[str, tuple[str, int]] = {}
        self._memory: dict[str, torch.Tensor] = {}
        self.refresh()

    def __contains__(self, image: ImageRef) -> bool:
        return image.key in self._place or image.key in self._memory

    def refresh(self) -> None:
        """Look for files that other processes have added."""
        if self._directory is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._directory.glob("[!.]*.safetensors")):  # hidden ones are being written
            if path.name not in self._files:
                file = safe_open(path, framework="pt")
                self._files[path.name] = file
                for row, key in enumerate(json.loads(file.metadata()["keys"])):
                    self._place.setdefault(key, (path.name, row))

    def get(self, images: Sequence[ImageRef]) -> torch.Tensor:
        """(images, grid width², vision width), bfloat16; what is missing is computed first."""
        self.compute(images)
        return torch.stack([self._read(image.key) for image in images])

    def _read(self, key: str) -> torch.Tensor:
        if key in self._memory:
            return self._memory[key]
        name, row = self._place[key]
        return self._files[name].get_slice("features")[row]

    def compute(
        self,
        images: Iterable[ImageRef],
        *,
        batch_size: int = 16,
        workers: int = 1,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Compute what is missing of `images`, which may repeat.

        Args:
            batch_size: images in one pass of the tower.
            workers: threads that decode and resize; Pillow leaves Python's lock for both.
            on_progress: told how many images are done, again and again.
        """
        missing = list({image.key: image for image in images if image not in self}.values())
        done = 0
        for start in range(0, len(missing), _SHARD):
            part = missing[start : start + _SHARD]
            found = []
            for pixels in self._pixels(part, batch_size, workers):
                found.append(self._encode(pixels))
                done += len(pixels)
                on_progress(done)
            self._keep([image.key for image in part], torch.cat(found))

    def _pixels(self, images: Sequence[ImageRef], batch_size: int, workers: int) -> Iterator[torch.Tensor]:
        """Batches of squashed images, uint8: (batch, height, width, 3); made ahead of their use."""
        size = self._processor.image_processor.size
        shape = (size["width"], size["height"])
        resample = Image.Resampling(self._processor.image_processor.resample)

        def load(image: ImageRef) -> np.ndarray:
            return np.asarray(image.open().resize(shape, resample))

        with ThreadPoolExecutor(workers) as pool:
            loaded = pool.map(load, images)
            while batch := list(islice(loaded, batch_size)):
                yield torch.from_numpy(np.stack(batch))

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        settings = self._processor.image_processor
        device = self._model.device
        mean = torch.tensor(settings.image_mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(settings.image_std, device=device).view(1, 3, 1, 1)
        values = pixels.to(device).permute(0, 3, 1, 2).float() * settings.rescale_factor
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device)):
            return self._model.model.encode_images((values - mean) / std).to(torch.bfloat16)

    def _keep(self, keys: list[str], features: torch.Tensor) -> None:
        if self._directory is None:
            self._memory.update(zip(keys, features, strict=True))
            return
        with replacing(self._directory / f"{uuid.uuid4().hex}.safetensors") as part:
            save_file({"features": features.cpu()}, part, metadata={"keys": json.dumps(keys)})
        self.refresh()
