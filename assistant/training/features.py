"""Features of the frozen image tower, computed once and kept."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from fourfold.assistant.files import replacing
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.model.bf16 import has_fast_bf16
from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.pixels import load_pixels

_SHARD = 128  # images a file, or the tower's batch where that is larger; an interrupted run loses at most these


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
        # Without a directory: what each call of `compute` found, and of every key in which of these it lies, and where.
        self._blocks: list[torch.Tensor] = []
        self._memory: dict[str, tuple[int, int]] = {}
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
        if not images:
            return torch.empty(0, *self._shape, dtype=torch.bfloat16)
        if self._directory is None:
            places = [self._memory[image.key] for image in images]
            if len({block for block, _ in places}) == 1:
                rows = torch.tensor([row for _, row in places])
                block = self._blocks[places[0][0]]
                return block[rows.to(block.device, non_blocking=True)]
            return torch.stack([self._blocks[block][row] for block, row in places])
        return torch.stack([self._read(*self._place[image.key]) for image in images])

    def _read(self, name: str, row: int) -> torch.Tensor:
        return self._files[name].get_slice("features")[row]

    @property
    def _shape(self) -> tuple[int, int]:
        config = self._model.config
        return config.grid_width**2, config.vision_config.hidden_size

    def compute(
        self,
        images: Iterable[ImageRef],
        *,
        batch_size: int = 16,
        workers: int = 0,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Compute what is missing of `images`, which may repeat.

        Args:
            batch_size: images in one pass of the tower.
            workers: processes that decode and resize; 0 for a thread of this one.
            on_progress: told how many images are done, again and again.
        """
        missing = list({image.key: image for image in images if image not in self}.values())
        if not missing:
            return
        keys = [image.key for image in missing]
        keep = self._keep_files if self._directory is not None else self._keep_in_memory
        settings = self._processor.image_processor
        shape = (settings.size["width"], settings.size["height"])
        pixels = load_pixels(missing, shape, Image.Resampling(settings.resample), batch_size, workers)
        keep(keys, map(self._encode, pixels), on_progress)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(images, height, width, 3), uint8 → (images, grid width², vision width)."""
        settings = self._processor.image_processor
        device = self._model.device
        mean = torch.tensor(settings.image_mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(settings.image_std, device=device).view(1, 3, 1, 1)
        if device.type == "cuda":
            pixels = pixels.pin_memory()  # so that the copy waits for nothing that the device does
        values = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float() * settings.rescale_factor
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device)):
            return self._model.model.encode_images((values - mean) / std).to(torch.bfloat16)

    def _keep_in_memory(
        self, keys: Sequence[str], found: Iterable[torch.Tensor], on_progress: Callable[[int], None]
    ) -> None:
        """One tensor for all, so that a batch is one lookup in it."""
        block = torch.empty(len(keys), *self._shape, dtype=torch.bfloat16, device=self._model.device)
        self._blocks.append(block)
        done = 0
        for features in found:
            block[done : done + len(features)] = features
            rows = range(done, done + len(features))
            self._memory.update({keys[row]: (len(self._blocks) - 1, row) for row in rows})
            done += len(features)
            on_progress(done)

    def _keep_files(
        self, keys: Sequence[str], found: Iterable[torch.Tensor], on_progress: Callable[[int], None]
    ) -> None:
        """A file for every shard as soon as it is complete."""
        assert self._directory is not None
        done = kept = 0
        waiting: list[torch.Tensor] = []
        for features in found:
            waiting.append(features)
            done += len(features)
            if done - kept >= _SHARD or done == len(keys):
                told = {"keys": json.dumps(keys[kept:done])}
                with replacing(self._directory / f"{uuid.uuid4().hex}.safetensors") as part:
                    save_file({"features": torch.cat(waiting).cpu()}, part, metadata=told)
                kept, waiting = done, []
                self.refresh()
            on_progress(done)
