"""What the engine needs to know of a checkpoint's sizes, from its config.json; nothing here imports transformers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fourfold.assistant.checkpoints.check import MODEL_TYPE


@dataclass(frozen=True)
class TextConfig:
    """Of the language model, with transformers' names."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    hidden_act: str
    rms_norm_eps: float
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    rope_parameters: Mapping[str, Any]
    sliding_window: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """Of the whole model.

    Attributes:
        vision_config: of the image tower, as it stands in the file.
    """

    text_config: TextConfig
    vision_config: Mapping[str, Any]
    image_token_id: int
    fold: int
    vision_norm_eps: float
    fold_shape: str = "row"

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """The configuration that stands in a config.json.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: it is of another model, its sizes do not go together, or a
                value is missing that transformers would fill in.
        """
        if config["model_type"] != MODEL_TYPE or config.get("vision_llm_block") is not None:
            raise ValueError("it is of another model")
        if config.get("quantization_config") is not None:
            raise ValueError("its weights are quantised")
        text = config["text_config"]
        known = {field.name for field in fields(TextConfig)}
        found = cls(
            text_config=TextConfig(**{name: text[name] for name in text.keys() & known}),
            vision_config=config["vision_config"],
            image_token_id=config["image_token_id"],
            fold=config["fold"],
            vision_norm_eps=config["vision_norm_eps"],
            fold_shape=config.get("fold_shape", "row"),
        )
        size, patch = found.image_size, found.vision_config["patch_size"]
        shaped = found.fold_shape in ("row", "square") and math.prod(found.fold_cell) == found.fold > 0
        if size % patch or not shaped or found.grid_width % found.fold_cell[1]:
            raise ValueError("the image does not divide into patches and folds")
        return found

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return self.vision_config["image_size"]

    @property
    def grid_width(self) -> int:
        """Patches in a row of the image, and rows of patches."""
        return self.image_size // self.vision_config["patch_size"]

    @property
    def fold_cell(self) -> tuple[int, int]:
        """Rows and columns of patches that become one token."""
        side = math.isqrt(max(self.fold, 0))
        return (side, side) if self.fold_shape == "square" else (1, self.fold)

    @property
    def image_seq_length(self) -> int:
        """Tokens that one image takes in the language model's context."""
        return self.grid_width**2 // self.fold
