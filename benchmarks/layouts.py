"""Sizes of models to measure."""

from transformers import Blip2VisionConfig, LlamaConfig

from fourfold.assistant.model import MiniGPTv2Config


def layout(name: str) -> MiniGPTv2Config:
    """Sizes of the original model ("7b"), or tiny ones of the same shape ("tiny")."""
    if name == "7b":
        text = LlamaConfig(
            vocab_size=32001,  # Llama-2's and one for the place of an image
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
        )
        return MiniGPTv2Config(text_config=text)
    vision = Blip2VisionConfig(
        hidden_size=176,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=112,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=32001, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
    )
    return MiniGPTv2Config(vision_config=vision, text_config=text)
