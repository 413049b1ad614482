"""A checkpoint in torch: on a GPU, in formats that onnxruntime does not compute, and under adapters."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.serving.engine.kv_cache import KVCache, StepInput
from fourfold.serving.engine.threads import threads
from fourfold.serving.engine.torch_backend.attention import ATTENTION, AttentionMetadata

P = ParamSpec("P")
T = TypeVar("T")


def _computing(
    method: "Callable[Concatenate[TorchModel, P], T]",
) -> "Callable[Concatenate[TorchModel, P], T]":
    """Without gradients, and on as many threads as may be used now: torch counts them for each of ours."""

    @wraps(method)
    def computed(self: "TorchModel", *args: P.args, **kwargs: P.kwargs) -> T:
        threads.follow_torch()
        with torch.inference_mode():
            return method(self, *args, **kwargs)

    return computed


class TorchModel:
    """Arrays of numpy in and out; in between everything is on the model's device, in its dtype. Not thread-safe.

    Args:
        model: ready to use; its language model's attention is replaced.

    Attributes:
        device, dtype: torch's names of them.
        itemsize: bytes of one number.
        weight_bytes: of all weights.
        sees: whether it has its image tower.
    """

    def __init__(self, model: MiniGPTv2ForConditionalGeneration) -> None:
        self.model = model
        self._device, self._dtype = model.device, model.model.projector.weight.dtype
        self.device, self.dtype = str(self._device), str(self._dtype).removeprefix("torch.")
        self.itemsize = self._dtype.itemsize
        self.weight_bytes: int = model.get_memory_footprint()
        self.sees = True
        self._language_model = model.model.language_model
        self._language_model.set_attn_implementation(ATTENTION)

    def forget_tower(self) -> None:
        """Free the memory of the image tower; its layers stay, without weights."""
        tower = self.model.model.vision_tower
        with torch.device("meta"):  # made anew: those of a quantised checkpoint cannot be moved there
            self.model.model.vision_tower = type(tower)(tower.config)
        self.sees = False

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights by their names in a checkpoint, without copies where the model is on a CPU and in float32."""
        return {name: _array(tensor) for name, tensor in self.model.state_dict().items()}

    def free_memory(self) -> int:
        """Bytes that are free on the GPU."""
        return torch.cuda.mem_get_info(self._device)[0]

    def zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        """An array for keys and values."""
        if self._device.type == "cpu" and math.prod(shape):
            # numpy's zeros come from calloc: pages that no row has reached cost no memory; torch.zeros touches all.
            zeros = np.zeros(math.prod(shape) * self.itemsize, np.uint8)
            return torch.from_numpy(zeros).view(self._dtype).view(shape)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    @_computing
    def encode_images(self, pixel_values: np.ndarray) -> np.ndarray:
        """(images, 3, size, size) → (images, patches, vision width)."""
        return _array(self.model.model.encode_images(self._tensor(pixel_values)))

    @_computing
    def project_features(self, features: np.ndarray) -> np.ndarray:
        """(images, patches, vision width) → (images, tokens of an image, text width)."""
        return _array(self.model.model.project_features(self._tensor(features)))

    @_computing
    def embed_tokens(self, token_ids: Sequence[int]) -> np.ndarray:
        """(tokens, text width)."""
        return _array(self._embed(token_ids))

    @_computing
    def step(self, kv_cache: KVCache, inputs: Sequence[StepInput]) -> np.ndarray:
        """Run the new tokens of all rows through the language model; see `ModelRunner.step`."""
        metadata = AttentionMetadata(kv_cache, inputs)
        hidden = self._language_model(
            inputs_embeds=self._join(inputs),
            position_ids=metadata.positions,
            use_cache=False,
            attention_metadata=metadata,
        ).last_hidden_state[0]
        end = 0
        kept: list[int] = []
        for entry in inputs:
            kv_cache.lengths[entry.row] += entry.count
            end += entry.count
            kept.extend(range(end - entry.keep, end))
        if len(kept) < len(hidden):
            hidden = hidden[torch.tensor(kept, device=self._device, dtype=torch.long)]
        return _array(self.model.lm_head(hidden))

    def _join(self, inputs: Sequence[StepInput]) -> torch.Tensor:
        """(1, tokens, text width) of all rows, end to end; tokens drawn last are embedded together."""
        tokens = [entry.token for entry in inputs if entry.embeds is None]
        drawn = iter(self._embed(tokens).split(1) if tokens else ())
        parts = [next(drawn) if entry.embeds is None else self._tensor(entry.embeds) for entry in inputs]
        return torch.cat(parts)[None]

    def _embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        return self._language_model.embed_tokens(torch.tensor(token_ids, device=self._device, dtype=torch.long))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, self._dtype)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
