# Copyright 2026 the authors of fourfold
# SPDX-License-Identifier: Apache-2.0
#
# fourfold writes a copy of this file beside the weights of every checkpoint.
"""Configuration of MiniGPT-v2: any ViT, a fold, one linear projector, any LLaMA."""

import math
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, Blip2VisionConfig, LlamaConfig, PreTrainedConfig

# EVA-CLIP-g's layout is BLIP-2's vision model, which transformers knows only as a part of BLIP-2.
AutoConfig.register(Blip2VisionConfig.model_type, Blip2VisionConfig, exist_ok=True)


class MiniGPTv2Config(PreTrainedConfig):
    """Sizes of a MiniGPT-v2 model.

    Args:
        vision_config: configuration (or its dict) of a ViT-like tower: `hidden_size`, `image_size` and `patch_size`
            in pixels; by default the original's, 39 blocks of EVA-CLIP-g at 448 px. The tower's last block is used as
            it is: a checkpoint that wants an earlier layer keeps fewer blocks (the original keeps 39 of 40).
        text_config: configuration (or its dict) of a LLaMA-like language model.
        image_token_id: id of the placeholder that stands once for every visual token in `input_ids`.
        fold: how many adjacent visual tokens are concatenated into one.
        fold_shape: how they lie: "row" for neighbours from left to right, as in the original, "square" for a block
            as wide as it is high (of 2 x 2, where `fold` is 4).
        vision_norm_eps: epsilon of the layer-norm between tower and fold.

    Raises:
        ValueError: the image does not divide into patches, or the patch grid into folds; the fold's shape is unknown,
            or its size is no square's; or the configuration is of a model with `vision_llm_block`, as there were once.
    """

    model_type = "minigpt_v2"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}  # noqa: RUF012 (transformers' own contract)

    vision_config: Any = None
    text_config: Any = None
    image_token_id: int = 32000
    fold: int = 4
    fold_shape: str = "row"
    vision_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.pop("vision_llm_block", None) is not None:
            raise ValueError(
                "this checkpoint has a block of the language model behind its image tower (vision_llm_block), which "
                "only recipes of `fourfold train` know now; take a checkpoint without one"
            )
        if self.vision_config is None:
            self.vision_config = Blip2VisionConfig(image_size=448, patch_size=14, num_hidden_layers=39)
        elif isinstance(self.vision_config, dict):
            self.vision_config = _from_dict(self.vision_config)
        if self.text_config is None:
            self.text_config = LlamaConfig()
        elif isinstance(self.text_config, dict):
            self.text_config = _from_dict(self.text_config)
        # vLLM and `tie_weights` look at the top level; the language model's own configuration knows the answer.
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        if self.vision_config.image_size % self.vision_config.patch_size:
            raise ValueError(
                f"image_size {self.vision_config.image_size} is not a multiple of patch_size "
                f"{self.vision_config.patch_size}; choose an image size that divides into whole patches"
            )
        if self.fold_shape not in ("row", "square"):
            raise ValueError(f"fold_shape is {self.fold_shape!r}; it must be 'row' or 'square'")
        if self.fold < 1 or math.prod(self.fold_cell) != self.fold:
            raise ValueError(f"fold is {self.fold}; a row takes 1 or more tokens, a square 1, 4, 9 or the like")
        rows, columns = self.fold_cell
        if self.grid_width % columns:
            raise ValueError(
                f"the patch grid is {self.grid_width} wide ({self.vision_config.image_size} px / "
                f"{self.vision_config.patch_size} px), which does not divide into folds of {self.fold} "
                f"({rows} x {columns}): groups would wrap across rows; choose another image size, fold or fold_shape"
            )
        super().__post_init__(**kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """As transformers makes it, without the fold's shape where it is the original's.

        So the configuration of such a model is, byte for byte, what it was before there was a choice.
        """
        values = super().to_diff_dict()
        if self.fold_shape == "row":
            values.pop("fold_shape", None)
        return values

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """As transformers does it, and name all the code of the checkpoint.

        transformers itself names the class of the model that is saved, and no other that could read the same weights.
        """
        self.auto_map = {
            "AutoConfig": "configuration_minigpt_v2.MiniGPTv2Config",
            "AutoModel": "modeling_minigpt_v2.MiniGPTv2Model",
            "AutoModelForImageTextToText": "modeling_minigpt_v2.MiniGPTv2ForConditionalGeneration",
            "AutoProcessor": "processing_minigpt_v2.MiniGPTv2Processor",
        }
        super().save_pretrained(save_directory, **kwargs)

    @property
    def grid_width(self) -> int:
        """Patches in a row of the image, and rows of patches."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def fold_cell(self) -> tuple[int, int]:
        """Rows and columns of patches that become one token."""
        side = math.isqrt(max(self.fold, 0))
        return (side, side) if self.fold_shape == "square" else (1, self.fold)

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of the visual tokens; they stand in reading order."""
        rows, columns = self.fold_cell
        return self.grid_width // rows, self.grid_width // columns

    @property
    def image_seq_length(self) -> int:
        """Tokens that one image takes in the language model's context."""
        return self.grid_width**2 // self.fold


def _from_dict(config: dict[str, Any]) -> PreTrainedConfig:
    values = dict(config)
    return CONFIG_MAPPING[values.pop("model_type")](**values)


# Saving copies the file of a class that is registered so.
MiniGPTv2Config.register_for_auto_class()
