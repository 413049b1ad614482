"""MiniGPT-v2: configuration, model and processor, registered with transformers' Auto classes on import."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from fourfold.assistant.model.configuration_minigpt_v2 import MiniGPTv2Config
from fourfold.assistant.model.modeling_minigpt_v2 import MiniGPTv2ForConditionalGeneration, MiniGPTv2Model
from fourfold.assistant.model.processing_minigpt_v2 import IMAGE_TOKEN, MiniGPTv2Processor

__all__ = [
    "IMAGE_TOKEN",
    "MiniGPTv2Config",
    "MiniGPTv2ForConditionalGeneration",
    "MiniGPTv2Model",
    "MiniGPTv2Processor",
]

AutoConfig.register(MiniGPTv2Config.model_type, MiniGPTv2Config, exist_ok=True)
AutoModel.register(MiniGPTv2Config, MiniGPTv2Model, exist_ok=True)
AutoModelForImageTextToText.register(MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, exist_ok=True)
AutoProcessor.register(MiniGPTv2Config, MiniGPTv2Processor, exist_ok=True)
