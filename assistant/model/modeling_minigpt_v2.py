# Copyright 2026 the authors of fourfold
# SPDX-License-Identifier: Apache-2.0
#
# fourfold writes a copy of this file beside the weights of every checkpoint.
"""MiniGPT-v2 as an ordinary transformers model.

image → frozen ViT → layer-norm → fold (four neighbouring tokens concatenated) → linear projector → LLaMA

The class keeps to the contract of vLLM's Transformers backend (a `language_model` attribute, `get_image_features`
with `pooler_output`, `_supports_attention_backend`), so that the same code serves there unchanged. It imports nothing
of fourfold: transformers loads the copy beside a checkpoint's weights where fourfold is not installed.
"""

from typing import Any, Unpack

import torch
from torch import nn
from transformers import (
    AutoModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    Cache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast, LlavaModelOutputWithPast
from transformers.utils import TransformersKwargs, can_return_tuple, torch_compilable_check

from .configuration_minigpt_v2 import MiniGPTv2Config


def fold_tokens(tokens: torch.Tensor, grid_width: int, cell: tuple[int, int]) -> torch.Tensor:
    """Concatenate the tokens of every cell of the grid into one.

    Cells stand in reading order, and so do the tokens in a cell. A cell of one row is MiniGPT-v2's, whose code takes a
    plain row-major view (`minigpt4/models/minigpt_v2.py`); here too it is a view.

    Args:
        tokens: (images, tokens, width), without the class token, in reading order.
        grid_width: tokens in a row of the image.
        cell: rows and columns of tokens in a cell; they divide those of the grid.

    Returns:
        (images, tokens / cell size, width * cell size).
    """
    images, count, width = tokens.shape
    rows, columns = cell
    cells = tokens.reshape(images, count // grid_width // rows, rows, grid_width // columns, columns, width)
    return cells.transpose(2, 3).reshape(images, count // (rows * columns), rows * columns * width)


def _vision_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """EVA-CLIP-g's layout is BLIP-2's vision model, which AutoModel does not know; every other tower it knows."""
    if isinstance(config, Blip2VisionConfig):
        return Blip2VisionModel._from_config(config)
    return AutoModel.from_config(config)


class VisionLayerNorm(nn.LayerNorm):
    """Layer-norm computed in float32 whatever the model's dtype, as MiniGPT-v2's `ln_vision`.

    By the `LayerNorm` in its name transformers knows how to initialise it where a checkpoint lacks it.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise (..., width); the result has the input's dtype."""
        normed = nn.functional.layer_norm(
            hidden.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        )
        return normed.to(hidden.dtype)


class MiniGPTv2PreTrainedModel(PreTrainedModel):
    """What transformers and vLLM need to know of the family."""

    config: MiniGPTv2Config
    config_class = MiniGPTv2Config
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ("past_key_values",)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class MiniGPTv2Model(MiniGPTv2PreTrainedModel):
    """Vision tower, fold, projector and language model, without the vocabulary head."""

    def __init__(self, config: MiniGPTv2Config) -> None:
        super().__init__(config)
        self.vision_tower = _vision_tower(config.vision_config)
        # MiniGPT-v2 takes the last kept block's raw output and applies a norm of its own (`vision_norm`).
        for final_norm in ("post_layernorm", "layernorm"):
            if isinstance(getattr(self.vision_tower, final_norm, None), nn.Module):
                setattr(self.vision_tower, final_norm, nn.Identity())
        self.vision_norm = VisionLayerNorm(config.vision_config.hidden_size, eps=config.vision_norm_eps)
        self.projector = nn.Linear(config.vision_config.hidden_size * config.fold, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()
        self.train(self.training)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "MiniGPTv2Model":
        """Switch dropout on or off, except in the frozen parts, which stay frozen.

        Loading makes every parameter trainable again, and ends with `eval()`: hence the freezing in this place.
        """
        super().train(mode)
        for module in (self.vision_tower, self.vision_norm):
            module.eval()
            module.requires_grad_(False)
        return self

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Frozen part of the way of an image, the one worth caching.

        Args:
            pixel_values: (images, 3, image_size, image_size).

        Returns:
            (images, grid width², vision width): the last block's output, class token dropped, in reading order.
        """
        with torch.no_grad():
            return self._patches(self.vision_tower(pixel_values, return_dict=True).last_hidden_state)

    def _patches(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, hidden.shape[1] - self.config.grid_width**2 :]

    def project_features(self, features: torch.Tensor) -> torch.Tensor:
        """(images, grid width², vision width) of `encode_images` → (images, image_seq_length, text width)."""
        return self.projector(self.fold(self.vision_norm(features)))

    def fold(self, hidden: torch.Tensor) -> torch.Tensor:
        """(images, grid width², vision width) → (images, image_seq_length, fold * vision width)."""
        return fold_tokens(hidden, self.config.grid_width, self.config.fold_cell)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Embeddings of images in the language model's space; `pooler_output` is a list with one entry per image.

        Each entry is (image_seq_length, text width). vLLM calls this, and caches and schedules by entry.

        Args:
            pixel_values: (images, 3, image_size, image_size).
            output_hidden_states: give the tower's, (images, 1 + grid width², vision width) each, in `hidden_states`.
            output_attentions: give the tower's in `attentions`.
            **kwargs: `return_dict`; what else vLLM passes is of no use here.
        """
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        seen = self.vision_tower(
            pixel_values.to(self.projector.weight.dtype),
            return_dict=True,
            **{flag: value for flag, value in asked.items() if value is not None},
        )
        features = self._patches(seen.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=features,
            pooler_output=list(self.project_features(features)),
            hidden_states=seen.hidden_states,
            attentions=seen.attentions,
        )

    def embed(self, input_ids: torch.Tensor, image_embeds: torch.Tensor | None) -> torch.Tensor:
        """Embed text and put image embeddings where the placeholders stand.

        Args:
            input_ids: (batch, length), with `image_token_id` at every place of a visual token.
            image_embeds: (images, image_seq_length, text width) in the order of the placeholders, or None.

        Returns:
            (batch, length, text width).

        Raises:
            ValueError: placeholders and visual tokens differ in number.
        """
        embeds = self.get_input_embeddings()(input_ids)
        if image_embeds is None:
            return embeds
        return self._put(embeds, input_ids == self.config.image_token_id, image_embeds)

    def _put(self, embeds: torch.Tensor, places: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        visual = image_embeds.reshape(-1, image_embeds.shape[-1]).to(embeds)
        torch_compilable_check(
            places.sum() == len(visual),
            lambda: (
                f"the text has {int(places.sum())} image placeholder tokens, the images bring {len(visual)}; "
                "write the prompt as a chat, or the processor's image_token once for each image"
            ),
        )
        return embeds.masked_scatter(places.unsqueeze(-1), visual)

    def _places_in(self, embeds: torch.Tensor) -> torch.Tensor:
        """Where (batch, length, text width) holds the placeholder's own embedding: (batch, length)."""
        token = torch.tensor(self.config.image_token_id, device=embeds.device)
        return (embeds == self.get_input_embeddings()(token).to(embeds)).all(-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> tuple | LlavaModelOutputWithPast:
        """Hidden states (batch, length, text width) of text with images.

        Args:
            input_ids: (batch, length); or pass `inputs_embeds`.
            pixel_values: (images, 3, image_size, image_size), all images of the batch in the order of their
                placeholders.
            attention_mask: (batch, length), 0 for padding.
            position_ids: (batch, length).
            past_key_values: keys and values of what came before.
            inputs_embeds: (batch, length, text width). With `pixel_values`, images go where the placeholder's own
                embedding stands; without, they are in it already, as `embed` puts them.
            **kwargs: passed on to the language model; `return_dict`.

        Raises:
            ValueError: neither or both of `input_ids` and `inputs_embeds`, or placeholders that do not match.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        images = None
        if pixel_values is not None:
            images = torch.stack(self.get_image_features(pixel_values, return_dict=True).pooler_output)
        if input_ids is not None:
            inputs_embeds = self.embed(input_ids, images)
        elif inputs_embeds is not None and images is not None:
            inputs_embeds = self._put(inputs_embeds, self._places_in(inputs_embeds), images)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        return LlavaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=images,
        )


class MiniGPTv2ForConditionalGeneration(MiniGPTv2PreTrainedModel, GenerationMixin):
    """The whole model: text and images in, next-token logits out."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: MiniGPTv2Config) -> None:
        super().__init__(config)
        self.model = MiniGPTv2Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, *args: Any, **kwargs: Any) -> tuple | BaseModelOutputWithPooling:
        return self.model.get_image_features(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> tuple | LlavaCausalLMOutputWithPast:
        """Logits (batch, length, vocabulary), and the loss where `labels` are given.

        Args:
            input_ids: see `MiniGPTv2Model.forward`, as for the arguments up to `inputs_embeds`.
            pixel_values: as above.
            attention_mask: as above.
            position_ids: as above.
            past_key_values: as above.
            inputs_embeds: as above.
            labels: (batch, length) token ids, -100 where nothing is to be learnt.
            logits_to_keep: how many of the last positions get logits (0: all), or a tensor of positions.
            **kwargs: passed on to the language model and the loss; `return_dict`.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs[0][:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return LlavaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,  # by name, or `generate` does not take them
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Give the images to the first forward pass only: afterwards their keys and values are in the cache."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """Repeat every row, for beams and several answers: a row's images together, however many it has."""
        images = kwargs.pop("pixel_values", None) if expand_size > 1 else None
        if images is not None:
            if (embeds := kwargs.get("inputs_embeds")) is not None:
                places = self.model._places_in(embeds)
            else:
                assert input_ids is not None
                places = torch.eq(input_ids, self.config.image_token_id)
            counts = places.sum(-1) // self.config.image_seq_length
            images = torch.cat([row for row in images.split(counts.tolist()) for _ in range(expand_size)])
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, kwargs if images is None else kwargs | {"pixel_values": images}


# Saving copies the files of a class that is registered so, this one's and the configuration's.
MiniGPTv2Model.register_for_auto_class("AutoModel")
MiniGPTv2ForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
