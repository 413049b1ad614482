"""MiniGPT-v2 a second time: numpy, float64, one loop a block, straight from the release's own tensors.

It shares nothing with the model or the converter, so that an error would have to be made twice. Slow and plain on
purpose; sizes come from the tensors, the rest from the published architecture.
"""

import math
from collections.abc import Mapping

import numpy as np

HEAD_SIZE = 88
Array = np.ndarray
_erf = np.vectorize(math.erf)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def softmax(x: Array) -> Array:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def cubic_weights(fraction: float, a: float = -0.75) -> list[float]:
    """Keys' cubic convolution kernel at distances 1 + f, f, 1 - f, 2 - f."""

    def kernel(distance: float) -> float:
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a

    return [kernel(1 + fraction), kernel(fraction), kernel(1 - fraction), kernel(2 - fraction)]


def bicubic_matrix(old: int, new: int) -> Array:
    """(new, old): one axis of a bicubic resize with half-pixel centres, edges repeated."""
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        base = math.floor(centre)
        for offset, weight in zip((-1, 0, 1, 2), cubic_weights(centre - base), strict=True):
            matrix[row, min(max(base + offset, 0), old - 1)] += weight
    return matrix


def resized_positions(table: Array, grid: int) -> Array:
    """(1 + g², width) → (1 + grid², width); the class row stays."""
    old = math.isqrt(len(table) - 1)
    if old == grid:
        return table
    axis = bicubic_matrix(old, grid)
    patches = table[1:].reshape(old, old, -1)
    resized = np.einsum("yi,xj,ijw->yxw", axis, axis, patches)
    return np.concatenate([table[:1], resized.reshape(grid * grid, -1)])


def eva_tower(weights: Mapping[str, Array], image: Array) -> Array:
    """Image (3, size, size) → tokens (1 + grid², width) after all blocks but the file's last."""
    patch = weights["patch_embed.proj.weight"].shape[-1]
    grid = image.shape[-1] // patch
    kernel = weights["patch_embed.proj.weight"]
    tokens = []
    for y in range(grid):
        for x in range(grid):
            window = image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            tokens.append((kernel * window).sum((1, 2, 3)) + weights["patch_embed.proj.bias"])
    x = np.concatenate([weights["cls_token"][0], np.stack(tokens)])
    x = x + resized_positions(weights["pos_embed"][0], grid)

    in_file = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    for block in range(in_file - 1):
        w = {key.split(".", 2)[2]: value for key, value in weights.items() if key.startswith(f"blocks.{block}.")}
        h = layer_norm(x, w["norm1.weight"], w["norm1.bias"], 1e-6)
        q, k, v = (h @ part.T for part in np.split(w["attn.qkv.weight"], 3))
        q, v = q + w["attn.q_bias"], v + w["attn.v_bias"]
        heads = []
        for start in range(0, q.shape[-1], HEAD_SIZE):
            one = slice(start, start + HEAD_SIZE)
            heads.append(softmax(q[:, one] @ k[:, one].T / math.sqrt(HEAD_SIZE)) @ v[:, one])
        x = x + np.concatenate(heads, -1) @ w["attn.proj.weight"].T + w["attn.proj.bias"]
        h = layer_norm(x, w["norm2.weight"], w["norm2.bias"], 1e-6) @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
        h = 0.5 * h * (1 + _erf(h / math.sqrt(2)))
        x = x + h @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    return x


def image_tokens(vision: Mapping[str, Array], trained: Mapping[str, Array], image: Array) -> Array:
    """Image (3, size, size) → (grid² / 4, language width)."""
    patches = layer_norm(eva_tower(vision, image), 1.0, 0.0, 1e-5)[1:]
    folded = [np.concatenate(patches[i : i + 4]) for i in range(0, len(patches), 4)]
    return np.stack(folded) @ trained["llama_proj.weight"].T + trained["llama_proj.bias"]


def rotate(x: Array, positions: Array, theta: float) -> Array:
    """Rotary positions as transformers' LLaMA has them: dimension i goes with i + half."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * theta ** (-2 * np.arange(half) / x.shape[-1])
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = x[:, :half], x[:, half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def llama_logits(
    llama: Mapping[str, Array], trained: Mapping[str, Array], embeddings: Array, heads: int, scale: float, eps: float
) -> Array:
    """Embeddings (length, width) → logits (length, vocabulary), with the LoRA beside its weights, not in them."""
    x, length = embeddings, len(embeddings)
    positions = np.arange(length, dtype=np.float64)
    future = np.triu(np.full((length, length), -np.inf), 1)
    layer = 0
    while f"model.layers.{layer}.input_layernorm.weight" in llama:
        w = {key.split(".", 3)[3]: value for key, value in llama.items() if key.startswith(f"model.layers.{layer}.")}
        h = rms_norm(x, w["input_layernorm.weight"], eps)
        q, k, v = (h @ w[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        q = q + lora(trained, layer, "q_proj", h, scale)
        v = v + lora(trained, layer, "v_proj", h, scale)
        size = q.shape[-1] // heads
        mixed = []
        for head in range(heads):
            one = slice(head * size, (head + 1) * size)
            scores = rotate(q[:, one], positions, 10000.0) @ rotate(k[:, one], positions, 10000.0).T
            mixed.append(softmax(scores / math.sqrt(size) + future) @ v[:, one])
        x = x + np.concatenate(mixed, -1) @ w["self_attn.o_proj.weight"].T
        h = rms_norm(x, w["post_attention_layernorm.weight"], eps)
        gate = h @ w["mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
        layer += 1
    return rms_norm(x, llama["model.norm.weight"], eps) @ llama["lm_head.weight"].T


def lora(trained: Mapping[str, Array], layer: int, target: str, h: Array, scale: float) -> Array:
    for name in ("", ".default"):
        module = f"llama_model.base_model.model.model.layers.{layer}.self_attn.{target}"
        if f"{module}.lora_A{name}.weight" in trained:
            down, up = trained[f"{module}.lora_A{name}.weight"], trained[f"{module}.lora_B{name}.weight"]
            return scale * ((h @ down.T) @ up.T)
    raise KeyError(target)


def logits(
    vision: Mapping[str, Array],
    trained: Mapping[str, Array],
    llama: Mapping[str, Array],
    segments: list[list[int]],
    images: list[Array],
    *,
    heads: int,
    scale: float,
    eps: float = 1e-5,
) -> Array:
    """Logits of a prompt: token ids of the text before, between and after the images."""
    parts = []
    for index, ids in enumerate(segments):
        parts.append(llama["model.embed_tokens.weight"][ids])
        if index < len(images):
            parts.append(image_tokens(vision, trained, images[index]))
    return llama_logits(llama, trained, np.concatenate(parts), heads, scale, eps)
