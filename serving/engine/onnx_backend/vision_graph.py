"""CLIP's image tower as one ONNX graph for onnxruntime, written from its weights with onnxruntime's fused operators.

Tokens lie end to end but for the attention, which is one operator (MultiHeadAttention).
Definitions: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md

In int8, what is multiplied with the weights is put into 16 bits as two times 8: a row x is scale · (high + low / 256),
and both halves are multiplied as whole numbers. With 8 bits alone the features are 18 % off, since the tower
makes errors of its first blocks larger; with 16 they are 0.1 % off, where products in bfloat16 leave them 2.8 % off.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper

from fourfold.serving.engine.onnx_backend.graph import Graph, GraphWriter

TowerFormat = Literal["float32", "int8"]

_ACTIVATIONS = frozenset({"quick_gelu", "gelu"})
_NEEDED = ("hidden_size", "image_size", "layer_norm_eps", "num_attention_heads", "num_hidden_layers", "patch_size")
_MIDDLE = np.uint8(128)
"""Stands for 0 in 8 bits: kernels of x86 multiply unsigned numbers with signed weights."""
_GRID_ERROR = 1e-3
"""Of a matrix, relative, by which it may differ from whole numbers times a scale to be kept so. Rounding one to such
numbers costs some 0.9 %, rounding a matrix of such numbers to float16 some 0.03 %."""


def can_be_built(config: Mapping[str, Any]) -> bool:
    """Whether an image tower is CLIP's, of which `tower_graph` knows every operator.

    Args:
        config: `vision_config` of a checkpoint, as in its `config.json`.
    """
    return (
        all(name in config for name in _NEEDED)
        and config.get("model_type") == "clip_vision_model"
        and config.get("hidden_act") in _ACTIVATIONS
        and config.get("num_channels", 3) == 3
        and config["hidden_size"] % config["num_attention_heads"] == 0
    )


def tower_graph(tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], weights: TowerFormat) -> Graph:
    """The graph of a CLIP image tower up to the output of its last block: no norm behind it, no class token.

    Args:
        tensors: of transformers' `CLIPVisionModel` in float32, by its names for them.
        config: of the tower, see `can_be_built`.
        weights: in which format products are computed. In "int8" those whose weights are not whole numbers from -127
            to 127 times a scale of each output (as the default model's are) are computed in float32 all the same.

    Returns:
        A graph with the input `pixels` (images, 3, size, size) and the output `features` (images, patches, width), in
        float32.
    """
    return _Writer(tensors, config, weights).write()


def product_graph(weight: np.ndarray, weights: TowerFormat) -> Graph:
    """`inputs` (rows, inputs) times the transpose of a `weight` (outputs, inputs) alone, to try it out."""
    tensors = {"product.weight": weight, "product.bias": np.zeros(len(weight), np.float32)}
    return _Writer(tensors, {}, weights).write_product("inputs", "product")


class _Writer(GraphWriter):
    def __init__(self, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], weights: TowerFormat) -> None:
        super().__init__()
        self._tensors, self._config, self._format = tensors, config, weights
        self._halved: set[str] = set()

    def write(self) -> Graph:
        size, width = self._config["image_size"], self._config["hidden_size"]
        patches = (size // self._config["patch_size"]) ** 2
        self._shape("flat", -1, width)
        self._shape("images", -1, 1 + patches, width)
        hidden = self._blocks(self._embeddings())
        seen = self._add("Reshape", [hidden, "images"], "seen")
        bounds = [self._shape(name, value) for name, value in (("first", 1), ("end", 1 + patches), ("axis", 1))]
        self._add("Slice", [seen, *bounds], "features")
        return self._float_graph({"pixels": ["count", 3, size, size]}, {"features": ["count", patches, width]})

    def write_product(self, inputs: str, name: str) -> Graph:
        """One linear layer as a graph."""
        outputs, columns = self._tensors[f"{name}.weight"].shape
        return self._float_graph({inputs: ["rows", columns]}, {self._product(inputs, name): ["rows", outputs]})

    def _float_graph(self, inputs: Mapping[str, list[int | str]], outputs: Mapping[str, list[int | str]]) -> Graph:
        """What was written so far, with inputs and outputs by name, in float32 and of these sizes."""
        taken, given = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in side.items()]
            for side in (inputs, outputs)
        )
        return self._graph("tower", taken, given)

    def _embeddings(self) -> str:
        """Patches and class token with their positions, normed: (tokens of all images, width)."""
        patch, width = self._config["patch_size"], self._config["hidden_size"]
        grid = self._config["image_size"] // patch
        # A convolution whose windows do not overlap is a product.
        cut = self._add("Reshape", ["pixels", self._shape("cut", -1, 3, grid, patch, grid, patch)], "cut_pixels")
        patches = self._add("Transpose", [cut], "patches", perm=[0, 2, 4, 1, 3, 5])
        rows = self._add("Reshape", [patches, self._shape("pixel_rows", -1, 3 * patch**2)], "patch_rows")
        weight = self._weight("patch_weight", self._tensors["embeddings.patch_embedding.weight"].reshape(width, -1))
        embedded = self._add("Gemm", [rows, weight], "embedded_rows", transB=1)
        embedded = self._add("Reshape", [embedded, self._shape("grid", -1, grid**2, width)], "embedded")
        positions = self._tensors["embeddings.position_embedding.weight"]
        placed = self._add("Add", [embedded, self._constant("positions", positions[1:])], "placed")
        first = self._tensors["embeddings.class_embedding"] + positions[0]
        count = self._add("Shape", [placed], "count", start=0, end=1)
        copies = self._add("Concat", [count, self._shape("token", 1, width)], "copies", axis=0)
        classes = self._add("Expand", [self._constant("class", first[None, None]), copies], "classes")
        tokens = self._add("Concat", [classes, placed], "tokens", axis=1)
        flat = self._add("Reshape", [tokens, "flat"], "flat_tokens")
        return self._norm(flat, "pre_layrnorm")  # spelt so in CLIP's weights

    def _blocks(self, residual: str) -> str:
        """All blocks; the name of the last one's output."""
        for number in range(self._config["num_hidden_layers"]):
            block = f"encoder.layers.{number}"
            for branch, norm in ((self._attention, "layer_norm1"), (self._mlp, "layer_norm2")):
                added = branch(block, self._norm(residual, f"{block}.{norm}"))
                # Adding and the norm behind it in one operator (SkipLayerNormalization) take longer than in two.
                residual = self._add("Add", [residual, added], f"{added}.residual")
        return residual

    def _attention(self, block: str, normed: str) -> str:
        name = f"{block}.self_attn"
        parts = []
        for part in "qkv":
            product = self._product(normed, f"{name}.{part}_proj")
            parts.append(self._add("Reshape", [product, "images"], f"{product}.images"))
        attended = f"{name}.attended"
        self._node("MultiHeadAttention", parts, [attended], num_heads=self._config["num_attention_heads"])
        flat = self._add("Reshape", [attended, "flat"], f"{attended}.flat")
        return self._product(flat, f"{name}.out_proj")

    def _mlp(self, block: str, normed: str) -> str:
        inner = self._product(normed, f"{block}.mlp.fc1")
        active = f"{inner}.active"
        if self._config["hidden_act"] == "quick_gelu":
            self._node("QuickGelu", [inner], [active], alpha=1.702)
        else:
            self._add("Gelu", [inner], active)
        return self._product(active, f"{block}.mlp.fc2")

    def _norm(self, inputs: str, name: str) -> str:
        epsilon = self._config["layer_norm_eps"]
        return self._add("LayerNormalization", [inputs, *self._affine(name)], name, axis=-1, epsilon=epsilon)

    def _affine(self, norm: str) -> list[str]:
        return [self._constant(f"{norm}.{part}", self._tensors[f"{norm}.{part}"]) for part in ("weight", "bias")]

    def _product(self, inputs: str, name: str) -> str:
        """A linear layer on (tokens, inputs)."""
        weight, bias = self._tensors[f"{name}.weight"], self._constant(f"{name}.bias", self._tensors[f"{name}.bias"])
        grid = on_grid(weight) if self._format == "int8" else None
        if grid is None:
            return self._add("Gemm", [inputs, self._weight(f"{name}.weight", weight), bias], name, transB=1)
        whole, scales = self._weight(f"{name}.weight", grid[0].T), self._constant(f"{name}.scales", grid[1])
        high, low, row_scales = self._halves(inputs)
        for half, unit in ((high, "one"), (low, "fraction")):
            self._node("MatMulIntegerToFloat", [half, whole, unit, scales, "middle"], [f"{name}.{unit}"])
        total = self._add("Add", [f"{name}.one", f"{name}.fraction"], f"{name}.sum")
        scaled = self._add("Mul", [total, row_scales], f"{name}.scaled")
        return self._add("Add", [scaled, bias], name)

    def _halves(self, inputs: str) -> tuple[str, str, str]:
        """Rows as scale · (high + low / 256): names of the two halves, 8 bits around `_MIDDLE`, and of the scales."""
        names = f"{inputs}.high", f"{inputs}.low", f"{inputs}.scale"
        if inputs in self._halved:
            return names
        self._halved.add(inputs)
        if len(self._halved) == 1:
            self._constant("middle", _MIDDLE)
            self._constant("one", np.float32(1))
            self._constant("fraction", np.float32(1 / 256))
            self._constant("unit", np.float32(1 / 127))
            self._shape("list", -1)
            self._shape("columns", 1)
        high, low, scale = names
        sizes = self._add("Abs", [inputs], f"{inputs}.sizes")
        largest = self._add("ReduceMax", [sizes, "columns"], f"{inputs}.largest", keepdims=1)
        self._add("Mul", [largest, "unit"], scale)
        scales = self._add("Reshape", [scale, "list"], f"{inputs}.scales")
        count = self._add("Shape", [scales], f"{inputs}.count")
        middles = self._add("Expand", ["middle", count], f"{inputs}.middles")
        self._add("QuantizeLinear", [inputs, scales, middles], high, axis=0)
        known = self._add("DequantizeLinear", [high, scales, middles], f"{inputs}.known", axis=0)
        rest = self._add("Sub", [inputs, known], f"{inputs}.rest")
        finer = self._add("Mul", [scales, "fraction"], f"{inputs}.finer")
        self._add("QuantizeLinear", [rest, finer, middles], low, axis=0)
        return names

    def _shape(self, name: str, *sizes: int) -> str:
        return self._constant(name, np.array(sizes, np.int64))


def on_grid(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A matrix (outputs, inputs) as int8 and a scale of each output; None where it is not made of such numbers."""
    scales = np.maximum(weight.max(1), -weight.min(1)) / np.float32(127)
    steps = weight / np.maximum(scales, np.finfo(np.float32).tiny)[:, None]
    whole = np.rint(steps)
    steps -= whole
    if np.vdot(steps, steps) > _GRID_ERROR**2 * np.vdot(whole, whole):
        return None
    return whole.astype(np.int8), scales
