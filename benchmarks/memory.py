"""What the full-size model's weights take, counted on the meta device: nothing is allocated.

    PYTHONPATH=. python3 -m benchmarks.memory

8 bit and NF4 are bitsandbytes' as `fourfold` uses them: the language model's linear layers only.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import Blip2VisionConfig, LlamaConfig

from fourfold.assistant.model import MiniGPTv2Config, MiniGPTv2ForConditionalGeneration
from fourfold.eval.report.render import markdown_table

# NF4 with double quantisation: half a byte a weight; a byte for every 64 weights; 4 bytes for every 256 of those.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


def layout(name: str) -> MiniGPTv2Config:
    """Sizes of the original model ("7b"), or tiny ones of the same shape ("tiny")."""
    vocabulary = 32001  # Llama-2's and one for the place of an image
    if name == "7b":  # which is also the size of both libraries' defaults
        return MiniGPTv2Config(
            text_config=LlamaConfig(vocab_size=vocabulary, max_position_embeddings=4096, rms_norm_eps=1e-5)
        )
    small = {"intermediate_size": 256, "num_hidden_layers": 2}
    return MiniGPTv2Config(
        vision_config=Blip2VisionConfig(hidden_size=176, num_attention_heads=2, image_size=112, patch_size=14, **small),
        text_config=LlamaConfig(vocab_size=vocabulary, hidden_size=128, num_attention_heads=4, **small),
    )


@dataclass(frozen=True)
class Part:
    """A part of the model.

    Args:
        name: for the table.
        parameters: how many.
        fp16: bytes.
        int8: bytes, with a scale of 4 bytes for every output of a linear layer.
        nf4: bytes.
    """

    name: str
    parameters: int
    fp16: float
    int8: float
    nf4: float


def parts(model: MiniGPTv2ForConditionalGeneration) -> list[Part]:
    """The model's parts in the order of an image's way through it, and their sum."""
    language_model = model.model.language_model
    linears = [m for m in language_model.modules() if isinstance(m, nn.Linear)]
    inside = sum(m.weight.numel() for m in linears)
    int8 = inside + 4 * sum(m.out_features for m in linears)
    found = [
        _kept("image tower", model.model.vision_tower),
        _kept("norm after it", model.model.vision_norm),
        _kept("projector", model.model.projector),
        _kept("embeddings and norms of the language model", language_model, without=inside),
        Part("linear layers of the language model", inside, 2 * inside, int8, NF4_BYTES * inside),
        _kept("vocabulary head", model.lm_head),
    ]
    sums = (sum(getattr(part, field) for part in found) for field in ("parameters", "fp16", "int8", "nf4"))
    return [*found, Part("**whole model**", *sums)]


def _kept(name: str, module: nn.Module, without: int = 0) -> Part:
    """A part that stays in 16 bit whatever is asked for; `without` so many parameters of another part."""
    count = sum(parameter.numel() for parameter in module.parameters()) - without
    return Part(name, count, 2 * count, 2 * count, 2 * count)


def table() -> str:
    """Markdown; sizes in 10⁹ bytes."""
    with torch.device("meta"):
        model = MiniGPTv2ForConditionalGeneration(layout("7b"))
    rows = [
        [part.name, f"{part.parameters:,}", *(f"{size / 1e9:.3f} GB" for size in (part.fp16, part.int8, part.nf4))]
        for part in parts(model)
    ]
    return "\n".join(markdown_table(["part", "parameters", "fp16", "8 bit", "NF4"], rows, numbers=range(1, 5)))


if __name__ == "__main__":
    print(table())
