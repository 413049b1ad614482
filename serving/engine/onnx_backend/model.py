"""A checkpoint in onnxruntime and numpy, on a CPU: nothing here imports torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from fourfold.assistant.checkpoints.mapped_weights import under
from fourfold.serving.engine.kv_cache import KVCache, StepInput
from fourfold.serving.engine.onnx_backend.decoder import OnnxDecoder
from fourfold.serving.engine.onnx_backend.decoder_graph import WeightFormat, projector_graph

if TYPE_CHECKING:
    from fourfold.serving.engine.onnx_backend.vision import OnnxVisionTower


def tensor_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors but the image tower's that a checkpoint has to have, by their names there.

    Args:
        config: of the whole model, with transformers' names; its language model is a LLaMA.
    """
    text, vision = config.text_config, config.vision_config
    vision_width = vision["hidden_size"] if isinstance(vision, Mapping) else vision.hidden_size
    width, inner, head = text.hidden_size, text.intermediate_size, text.head_dim
    heads, groups = text.num_attention_heads * head, text.num_key_value_heads * head
    layer = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (heads, width),
        "self_attn.k_proj": (groups, width),
        "self_attn.v_proj": (groups, width),
        "self_attn.o_proj": (width, heads),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"model.language_model.layers.{number}.{name}.weight": shape
        for number in range(text.num_hidden_layers)
        for name, shape in layer.items()
    }
    shapes["model.language_model.embed_tokens.weight"] = (text.vocab_size, width)
    shapes["model.language_model.norm.weight"] = (width,)
    shapes |= {f"model.vision_norm.{name}": (vision_width,) for name in ("weight", "bias")}
    shapes["model.projector.weight"] = (width, vision_width * config.fold)
    shapes["model.projector.bias"] = (width,)
    if not text.tie_word_embeddings:
        shapes["lm_head.weight"] = (text.vocab_size, width)
    return shapes


class OnnxModel:
    """Arrays of numpy in and out, all in float32. Not thread-safe.

    Args:
        tensors: of the checkpoint, by their names there.
        config: of the whole model, with transformers' names.
        decoder: format of the weights of the language model's products.
        tower: of images; None where it is one that torch has to compute.
        context: tokens a row may have.

    Attributes:
        sees: whether it has an image tower.
    """

    device, dtype, itemsize = "cpu", "float32", 4

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        config: Any,
        decoder: WeightFormat,
        tower: "OnnxVisionTower | None",
        *,
        context: int,
    ) -> None:
        text = under("model.language_model", tensors)
        self._table = text["embed_tokens.weight"]
        head = self._table if config.text_config.tie_word_embeddings else tensors["lm_head.weight"]
        self.decoder = OnnxDecoder(text, head, config.text_config, decoder, context=context)
        self.sees = tower is not None
        self._tower = tower
        graph = projector_graph(tensors, config.grid_width, config.fold_cell, config.vision_norm_eps)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # it is small
        self._projector = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        parts = self._table.nbytes, len(graph), tower.weight_bytes if tower else 0
        self.weight_bytes = self.decoder.weight_bytes + sum(parts)

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array for keys and values; pages of it that nothing has reached cost no memory."""
        return np.zeros(shape, np.float32)

    def encode_images(self, pixel_values: np.ndarray) -> np.ndarray:
        """(images, 3, size, size) → (images, patches, vision width)."""
        assert self._tower is not None
        return self._tower.encode(pixel_values)

    def project_features(self, features: np.ndarray) -> np.ndarray:
        """(images, patches, vision width) → (images, tokens of an image, text width)."""
        # One by one: an image's tokens do not depend on how many there are.
        parts = [self._projector.run(["projected"], {"features": one[None]})[0] for one in features]
        return np.concatenate(parts)

    def embed_tokens(self, token_ids: Sequence[int]) -> np.ndarray:
        """(tokens, text width)."""
        return self._table[np.asarray(token_ids, np.int64)]

    def step(self, kv_cache: KVCache, inputs: Sequence[StepInput]) -> np.ndarray:
        """Run the new tokens of all rows through the language model; see `ModelRunner.step`."""
        return self.decoder.step(kv_cache, inputs)
