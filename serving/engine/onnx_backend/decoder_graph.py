"""A LLaMA as one ONNX graph for onnxruntime: a step of the decoder is then one call instead of hundreds.

Written by hand from the weights, with onnxruntime's own fused operators: attention with rotary positions that writes
into the caller's keys and values (GroupQueryAttention), addition with the norm behind it
(SkipSimplifiedLayerNormalization), products with 8-bit weights (MatMulNBits). Their definitions:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from fourfold.serving.engine.onnx_backend.graph import CONTRIB, Graph, GraphWriter, serialised
from fourfold.serving.engine.onnx_backend.rotary import FIXED, rotations

WeightFormat = Literal["float32", "int8"]
BLOCK = 32
"""Neighbouring inputs of a product that share a scale, in int8: of its weights, and of what is multiplied with them."""

_AT_ONCE = 2**15  # blocks that are put into int8 in one go, so that what lies in between stays in the processor's cache


def can_be_built(config: Any) -> bool:
    """Whether a language model is a plain LLaMA, of which `decoder_graph` knows every operator.

    Args:
        config: of the language model, with transformers' names.
    """
    rotation = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type == "llama"
        and config.hidden_act == "silu"
        and not (config.attention_bias or config.mlp_bias)
        and rotation.get("rope_type", "default") in FIXED
        and rotation.get("partial_rotary_factor", 1) == 1
        and config.head_dim % 16 == 0
        and all(size % BLOCK == 0 for size in (config.hidden_size, config.intermediate_size))
        and config.num_attention_heads * config.head_dim % BLOCK == 0
    )


def decoder_graph(
    tensors: Mapping[str, np.ndarray], head: np.ndarray, config: Any, weights: WeightFormat, context: int
) -> Graph:
    """The graph of a LLaMA.

    Args:
        tensors: of transformers' `LlamaModel` in float32, by its names for them.
        head: (vocabulary, width) of the vocabulary head.
        config: of the language model, with transformers' names.
        weights: in which format products keep theirs.
        context: positions that it may be asked about.

    Returns:
        A graph with inputs `embeds` (rows, tokens, width), `last` (rows) and `total` (), see `OnnxDecoder`, `kept`
        (positions) of the tokens end to end, and `keys.N`, `values.N` (rows, key-value heads, capacity, head size) of
        each layer; outputs `logits` (positions, vocabulary) and `new_keys.N`, `new_values.N`, which are to be the same
        memory as the inputs.
    """
    return _Writer(tensors, head, config, weights).write(context)


def product_graph(weight: np.ndarray, weights: WeightFormat) -> bytes:
    """`inputs` (rows, inputs) times the transpose of a `weight` (outputs, inputs), alone: to try it out."""
    if weights == "int8":
        quantised, scales = quantise(weight)
        constants = [
            onnx.numpy_helper.from_array(quantised, "weight"),
            onnx.numpy_helper.from_array(scales, "scales"),
        ]
        node = helper.make_node(
            "MatMulNBits", ["inputs", "weight", "scales"], ["outputs"], domain=CONTRIB, **_int8(weight)
        )
    else:
        constants = [onnx.numpy_helper.from_array(np.ascontiguousarray(weight.T), "weight")]
        node = helper.make_node("MatMul", ["inputs", "weight"], ["outputs"])
    inputs, outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("inputs", weight.shape[1]), ("outputs", weight.shape[0]))
    )
    return serialised(helper.make_graph([node], "product", [inputs], [outputs], constants))


def projector_graph(tensors: Mapping[str, np.ndarray], grid_width: int, cell: tuple[int, int], epsilon: float) -> bytes:
    """`features` (images, patches, vision width) to `projected` (images, tokens of an image, text width), in float32.

    Args:
        tensors: of the whole model, by its names for them.
        grid_width: patches in a row of the image.
        cell: rows and columns of patches that become one token.
        epsilon: of the norm before that.
    """
    matrix = tensors["model.projector.weight"].T
    rows, columns = cell
    width = len(matrix) // (rows * columns)
    constants = {
        "norm.weight": tensors["model.vision_norm.weight"],
        "norm.bias": tensors["model.vision_norm.bias"],
        "weight": np.ascontiguousarray(matrix),
        "bias": tensors["model.projector.bias"],
        "folded.shape": np.array([0, -1, len(matrix)]),  # 0: as many images as there are
    }
    nodes = [
        helper.make_node(
            "LayerNormalization", ["features", "norm.weight", "norm.bias"], ["normed"], axis=-1, epsilon=epsilon
        ),
        helper.make_node("MatMul", ["folded", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["projected"]),
    ]
    if rows == 1:
        fold = [helper.make_node("Reshape", ["normed", "folded.shape"], ["folded"])]
    else:
        constants["cells.shape"] = np.array([0, -1, rows, grid_width // columns, columns, width])
        fold = [
            helper.make_node("Reshape", ["normed", "cells.shape"], ["cells"]),
            helper.make_node("Transpose", ["cells"], ["apart"], perm=[0, 1, 3, 2, 4, 5]),
            helper.make_node("Reshape", ["apart", "folded.shape"], ["folded"]),
        ]
    nodes[1:1] = fold
    inputs = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["images", "patches", width])
    outputs = helper.make_tensor_value_info("projected", TensorProto.FLOAT, ["images", "tokens", matrix.shape[1]])
    values = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    return serialised(helper.make_graph(nodes, "projector", [inputs], [outputs], values))


class _Writer(GraphWriter):
    def __init__(self, tensors: Mapping[str, np.ndarray], head: np.ndarray, config: Any, weights: WeightFormat) -> None:
        super().__init__()
        self._tensors, self._head, self._config, self._format = tensors, head, config, weights

    def write(self, context: int) -> Graph:
        config, heads = self._config, self._config.num_key_value_heads
        inputs = [
            helper.make_tensor_value_info("embeds", TensorProto.FLOAT, ["rows", "tokens", config.hidden_size]),
            helper.make_tensor_value_info("last", TensorProto.INT32, ["rows"]),
            helper.make_tensor_value_info("total", TensorProto.INT32, []),
            helper.make_tensor_value_info("kept", TensorProto.INT64, ["positions"]),
        ]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["positions", config.vocab_size])]
        for layer in range(config.num_hidden_layers):
            for name in ("keys", "values"):
                shape = ["rows", heads, "capacity", config.head_dim]
                inputs.append(helper.make_tensor_value_info(f"{name}.{layer}", TensorProto.FLOAT, shape))
                outputs.append(helper.make_tensor_value_info(f"new_{name}.{layer}", TensorProto.FLOAT, shape))
        self._rotations(context)
        self._product(self._layers(), "logits", [self._head])
        return self._graph("decoder", inputs, outputs)

    def _layers(self) -> str:
        """All layers; the name of the last norm's output, of the positions that are kept."""
        layers = range(self._config.num_hidden_layers)
        norms = [
            f"layers.{layer}.{norm}" for layer in layers for norm in ("input_layernorm", "post_attention_layernorm")
        ]
        norms.append("norm")
        names = [self._constant(f"norm.{place}", self._tensors[f"{norm}.weight"]) for place, norm in enumerate(norms)]
        epsilon = self._config.rms_norm_eps
        residual = "embeds"
        normed = self._add("SimplifiedLayerNormalization", ["embeds", names[0]], "normed", axis=-1, epsilon=epsilon)
        for number in layers:
            for part, branch in enumerate((self._attention, self._mlp)):
                if part and number == layers[-1]:  # no position reads another one's from here on
                    normed, residual = self._kept(normed), self._kept(residual)
                added = branch(number, normed)
                name = f"{number}.{part}"
                self._node(
                    "SkipSimplifiedLayerNormalization",
                    [residual, added, names[2 * number + part + 1]],
                    [f"normed.{name}", "", "", f"residual.{name}"],
                    epsilon=epsilon,
                )
                normed, residual = f"normed.{name}", f"residual.{name}"
        return normed

    def _kept(self, hidden: str) -> str:
        """Of (rows, tokens, width) the kept positions (positions, width)."""
        shape = self._constant(f"{hidden}.shape", np.array([-1, self._config.hidden_size]))
        flat = self._add("Reshape", [hidden, shape], f"{hidden}.flat")
        return self._add("Gather", [flat, "kept"], f"{hidden}.kept", axis=0)

    def _attention(self, number: int, normed: str) -> str:
        config, layer = self._config, f"layers.{number}.self_attn"
        projections = [self._tensors[f"{layer}.{name}_proj.weight"] for name in "qkv"]
        packed = self._product(normed, f"qkv.{number}", projections)
        self._node(
            "GroupQueryAttention",
            [packed, "", "", f"keys.{number}", f"values.{number}", "last", "total", "cosines", "sines"],
            [f"attended.{number}", f"new_keys.{number}", f"new_values.{number}"],
            num_heads=config.num_attention_heads,
            kv_num_heads=config.num_key_value_heads,
            scale=config.head_dim**-0.5,
            do_rotary=1,
        )
        return self._product(f"attended.{number}", f"attention.{number}", [self._tensors[f"{layer}.o_proj.weight"]])

    def _mlp(self, number: int, normed: str) -> str:
        layer = f"layers.{number}.mlp"
        gate = self._product(normed, f"gate.{number}", [self._tensors[f"{layer}.gate_proj.weight"]])
        up = self._product(normed, f"up.{number}", [self._tensors[f"{layer}.up_proj.weight"]])
        self._node("QuickGelu", [gate], [f"gated.{number}"], alpha=1.0)  # x * sigmoid(1 x), which is SiLU
        inner = self._add("Mul", [f"gated.{number}", up], f"inner.{number}")
        return self._product(inner, f"mlp.{number}", [self._tensors[f"{layer}.down_proj.weight"]])

    def _rotations(self, context: int) -> None:
        """Cosines and sines (context, head size / 2) of every position."""
        for name, table in zip(("cosines", "sines"), rotations(self._config, context), strict=True):
            self._weight(name, table)

    def _product(self, inputs: str, output: str, weights: list[np.ndarray]) -> str:
        """Multiply with the transpose of weights (outputs, inputs), several laid end to end."""
        weight = np.concatenate(weights) if len(weights) > 1 else weights[0]
        if self._format == "float32":
            return self._add("MatMul", [inputs, self._weight(f"{output}.weight", weight.T)], output)
        quantised, scales = quantise(weight)
        names = [inputs, self._weight(f"{output}.weight", quantised), self._weight(f"{output}.scales", scales)]
        self._node("MatMulNBits", names, [output], **_int8(weight))
        return output


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (outputs, inputs) to (outputs, blocks, `BLOCK`) uint8 around 128, and their scales (outputs, blocks).

    weight = (quantised - 128) * scale, with the scale of a block its largest magnitude / 127.
    """
    quantised = np.empty((weight.size // BLOCK, BLOCK), np.uint8)
    scales = np.empty(len(quantised), np.float32)
    for begin in range(0, len(scales), _AT_ONCE):
        blocks = weight.reshape(-1, BLOCK)[begin : begin + _AT_ONCE]
        # The largest of each block by rows of all blocks: numpy is ten times slower along a short last axis.
        largest = np.abs(blocks.T, order="C").max(0) / np.float32(127)
        steps = blocks / np.maximum(largest, np.finfo(np.float32).tiny)[:, None]
        np.rint(steps, out=steps)
        steps += 128
        quantised[begin : begin + _AT_ONCE], scales[begin : begin + _AT_ONCE] = steps, largest
    return quantised.reshape(len(weight), -1, BLOCK), scales.reshape(len(weight), -1)


def _int8(weight: np.ndarray) -> dict[str, Any]:
    """Attributes of MatMulNBits for a weight (outputs, inputs)."""
    # Accuracy level 4: what is multiplied is put into int8 as well, block by block, and sums are integers.
    return {"N": weight.shape[0], "K": weight.shape[1], "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
