"""An option of a recipe that brought nothing when it was measured (docs/training.md): the language model's own eyes.

A frozen copy of one of the language model's blocks works on the visual tokens between the tower's norm and the fold
(Pang et al. 2023, arXiv:2310.12973). A bridge does not hold its linear layers, so such a run is for comparing only.
"""

import copy
from typing import Any

import torch
from torch import nn

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.prompts.errors import UserError


class VisionLLMBlock(nn.Module):
    """The block, bidirectional and without rotary positions, between two linear layers that are to be trained.

    `layer` is a copy, so that LoRA on the language model leaves it alone. The first linear layer brings normed features
    to the scale of word embeddings, which is what it knows; the second what comes out to the size of what goes in, or
    the projector would start far too loud.
    """

    @torch.no_grad()
    def __init__(self, model: MiniGPTv2ForConditionalGeneration, layer: int) -> None:
        super().__init__()
        vision, text = model.config.vision_config.hidden_size, model.config.text_config.hidden_size
        generator = torch.Generator().manual_seed(1)
        self.layer = copy.deepcopy(model.model.language_model.layers[layer]).eval()
        self.head_size = self.layer.self_attn.head_dim
        self.project_in, self.project_out = nn.Linear(vision, text), nn.Linear(text, vision)
        scale = float(model.get_input_embeddings().weight.std())
        for linear, size in ((self.project_in, scale * vision**-0.5), (self.project_out, text**-0.5)):
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * size)
            linear.bias.zero_()
        noise = torch.randn(1, 256, vision, generator=torch.Generator().manual_seed(2))
        self.project_out.weight /= self(noise).std()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(images, tokens, vision width) → the same shape."""
        hidden = self.project_in(tokens)
        images, count, _ = hidden.shape
        # Rotation by angle zero: cos 1, sin 0. An explicit mask of zeros keeps sdpa from assuming a causal one.
        cos = hidden.new_ones(1, count, self.head_size)
        mask = hidden.new_zeros(images, 1, count, count)
        out = self.layer(hidden, attention_mask=mask, position_embeddings=(cos, torch.zeros_like(cos)))
        return self.project_out(out[0] if isinstance(out, tuple) else out)


def add_vision_llm_block(model: MiniGPTv2ForConditionalGeneration, layer: int) -> None:
    """Have every image's normed features go through a `VisionLLMBlock`, a copy of layer number `layer`.

    Raises:
        UserError: the language model has no such layer.
    """
    if layer >= (layers := model.config.text_config.num_hidden_layers):
        raise UserError(f"vision_llm_block: the language model has no layer {layer}; choose 0 to {layers - 1}")
    block = VisionLLMBlock(model, layer)
    model.model.vision_llm_block = block

    def through_block(norm: nn.Module, arguments: Any, normed: torch.Tensor) -> torch.Tensor:
        return block(normed)

    model.model.vision_norm.register_forward_hook(through_block)
