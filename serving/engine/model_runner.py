"""Forward passes: images to features, prompts to embeddings, new tokens of many rows to logits."""

from collections.abc import Sequence

import torch

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.serving.engine.cache import FeatureCache
from fourfold.serving.engine.kv_cache import ATTENTION, AttentionMetadata, KVCache, StepInput
from fourfold.serving.engine.lora_manager import BASE
from fourfold.serving.engine.onnx_decoder import OnnxDecoder
from fourfold.serving.engine.onnx_graph import WeightFormat
from fourfold.serving.engine.prompt import Prompt, PromptImage


class ModelRunner:
    """The model with its KV cache. Not thread-safe: the scheduler's thread alone uses it.

    Args:
        model: on its device, in its dtype; its language model's attention is replaced.
        context: tokens a row may have.
        cache_bytes: of the KV cache at most; `feature_bytes` of kept image features.
        decoder: format of the language model's weights where onnxruntime is to compute it, see `OnnxDecoder`; None for
            torch, which always computes under an adapter.
    """

    def __init__(
        self,
        model: MiniGPTv2ForConditionalGeneration,
        context: int,
        cache_bytes: int,
        feature_bytes: int,
        decoder: WeightFormat | None = None,
    ) -> None:
        self.model = model
        self.device = model.device
        self.dtype = model.model.projector.weight.dtype
        self.kv_cache = KVCache(model.config.text_config, self.dtype, self.device, cache_bytes, context)
        self.feature_cache = FeatureCache(feature_bytes)
        self.patches = model.config.grid_width**2
        self.images_encoded = self.images_reused = 0
        self._language_model = model.model.language_model
        self._language_model.set_attn_implementation(ATTENTION)
        self.decoder: OnnxDecoder | None = None
        if decoder is not None:
            threads = torch.get_num_threads()
            self.decoder = OnnxDecoder(
                self._language_model, model.lm_head.weight, decoder, self.kv_cache, context, threads
            )

    def embed(self, prompt: Prompt, start: int) -> torch.Tensor:
        """Embeddings (tokens, text width) of a prompt from position `start` on; encodes the images that this needs."""
        ids = torch.tensor([prompt.ids[start:]], device=self.device)
        size = self.model.config.image_seq_length
        places = prompt.ids[start:].count(self.model.config.image_token_id)
        needed = -(-places // size)
        if not needed:
            return self.model.model.embed(ids, None)[0]
        projected = self.model.model.project_features(self.features_of(prompt.images[-needed:]))
        visual = projected.reshape(-1, projected.shape[-1])[-places:]
        return self.model.model.embed(ids, visual[None])[0]

    def step(self, inputs: Sequence[StepInput], lora_id: int = BASE) -> torch.Tensor:
        """Run the new tokens of all rows through the language model. **The decode step is this one place.**

        Args:
            inputs: those with a single new token first.
            lora_id: of the adapter in use.

        Returns:
            Logits (kept positions, vocabulary) in the order of `inputs`, to be used before the next step.
        """
        if self.decoder is not None and lora_id == BASE:
            return self.decoder.step(inputs)
        lengths = self.kv_cache.lengths
        metadata = AttentionMetadata(self.kv_cache, inputs)
        hidden = self._language_model(
            inputs_embeds=self._join(inputs),
            position_ids=metadata.positions,
            use_cache=False,
            attention_metadata=metadata,
        ).last_hidden_state[0]
        end = 0
        kept: list[int] = []
        for entry in inputs:
            lengths[entry.row] += entry.count
            end += entry.count
            kept.extend(range(end - entry.keep, end))
        if len(kept) < len(hidden):
            hidden = hidden[torch.tensor(kept, device=self.device, dtype=torch.long)]
        return self.model.lm_head(hidden)

    def _join(self, inputs: Sequence[StepInput]) -> torch.Tensor:
        """(1, tokens, text width) of all rows, end to end; tokens drawn last are embedded together."""
        tokens = [entry.token for entry in inputs if entry.embeds is None]
        drawn = None
        if tokens:
            drawn = self._language_model.embed_tokens(torch.tensor(tokens, device=self.device))
            if len(tokens) == len(inputs):
                return drawn[None]
        parts, place = [], 0
        for entry in inputs:
            if entry.embeds is not None:
                parts.append(entry.embeds)
            elif drawn is not None:
                parts.append(drawn[place : place + 1])
                place += 1
        return torch.cat(parts)[None]

    def features_of(self, images: Sequence[PromptImage]) -> torch.Tensor:
        """(images, patches, vision width) of the vision tower, from the cache where they are."""
        known = {
            image.digest: features for image in images if (features := self.feature_cache.get(image.digest)) is not None
        }
        missing = {image.digest: image for image in images if image.digest not in known}
        self.images_encoded += len(missing)
        self.images_reused += len(images) - len(missing)
        if missing:
            pixels = torch.cat([image.pixel_values for image in missing.values()])
            encoded = self.model.model.encode_images(pixels.to(self.device, self.dtype))
            for digest, features in zip(missing, encoded, strict=True):
                known[digest] = features.clone()  # a view would keep its whole batch alive
                self.feature_cache.put(digest, known[digest])
        return torch.stack([known[image.digest] for image in images])
