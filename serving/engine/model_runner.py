"""Forward passes: images to features, prompts to embeddings, new tokens of many rows to logits."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.serving.engine.cache import FeatureCache
from fourfold.serving.engine.kv_cache import KVCache, StepInput
from fourfold.serving.engine.onnx_backend.model import OnnxModel
from fourfold.serving.engine.prompt.builder import Prompt, PromptImage
from fourfold.serving.engine.torch_backend.lora_manager import BASE

if TYPE_CHECKING:  # it brings torch, which most answers need not wait for
    from fourfold.serving.engine.torch_backend.model import TorchModel


class ModelRunner:
    """The model with its KV cache. Not thread-safe but for `in_torch`: the scheduler's thread alone uses it.

    Args:
        config: of the whole model, with transformers' names.
        base: computes the model without adapters: onnxruntime, or torch.
        load_in_torch: the same model in torch, for adapters and for image towers that onnxruntime does not compute.
        context: tokens a row may have.
        cache_bytes: of the KV cache at most; `feature_bytes` of kept image features.
    """

    def __init__(
        self,
        config: Any,
        base: "OnnxModel | TorchModel",
        load_in_torch: "Callable[[], TorchModel]",
        *,
        context: int,
        cache_bytes: int,
        feature_bytes: int,
    ) -> None:
        self.base = base
        self.kv_cache = KVCache(config.text_config, cache_bytes, context, base.zeros, base.itemsize)
        self.feature_cache = FeatureCache(feature_bytes)
        self.patches = config.grid_width**2
        self.images_encoded = self.images_reused = 0
        self._image_token_id, self._image_seq_length = config.image_token_id, config.image_seq_length
        self._load_in_torch, self._in_torch = load_in_torch, None if isinstance(base, OnnxModel) else base
        self._loading = threading.Lock()

    @property
    def in_torch(self) -> "TorchModel":
        """The model in torch, loaded when first asked for, once whoever asks; any thread may."""
        with self._loading:
            if self._in_torch is None:
                self._in_torch = self._load_in_torch()
            return self._in_torch

    def embed(self, prompt: Prompt, start: int, lora_id: int = BASE) -> np.ndarray:
        """Embeddings (tokens, text width) of a prompt from position `start` on; encodes the images that this needs."""
        ids = prompt.ids[start:]
        model = self._model(lora_id)
        embeds = model.embed_tokens(ids)
        places = np.flatnonzero(np.equal(ids, self._image_token_id))
        if needed := -(-len(places) // self._image_seq_length):
            projected = model.project_features(self.features_of(prompt.images[-needed:]))
            embeds[places] = projected.reshape(-1, projected.shape[-1])[-len(places) :]
        return embeds

    def step(self, inputs: Sequence[StepInput], lora_id: int = BASE) -> np.ndarray:
        """Run the new tokens of all rows through the language model. **The decode step is this one place.**

        Args:
            inputs: those with a single new token first.
            lora_id: of the adapter in use.

        Returns:
            Logits (kept positions, vocabulary), float32, in the order of `inputs`, to be used before the next step.
        """
        return self._model(lora_id).step(self.kv_cache, inputs)

    def _model(self, lora_id: int) -> "OnnxModel | TorchModel":
        return self.base if lora_id == BASE else self.in_torch

    def features_of(self, images: Sequence[PromptImage]) -> np.ndarray:
        """(images, patches, vision width) of the vision tower, from the cache where they are."""
        known = {
            image.digest: features for image in images if (features := self.feature_cache.get(image.digest)) is not None
        }
        missing = {image.digest: image for image in images if image.digest not in known}
        self.images_encoded += len(missing)
        self.images_reused += len(images) - len(missing)
        if missing:
            pixels = np.concatenate([image.pixel_values for image in missing.values()])
            encoded = (self.base if self.base.sees else self.in_torch).encode_images(pixels)
            for digest, features in zip(missing, encoded, strict=True):
                known[digest] = features.copy()  # a view would keep its whole batch alive
                self.feature_cache.put(digest, known[digest])
        return np.stack([known[image.digest] for image in images])
