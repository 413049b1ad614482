"""Teaches vLLM our model: the entry point `vllm.general_plugins`, called by vLLM in each of its processes.

vLLM's Transformers backend runs the class of `assistant.model` as it is; there is no second implementation.
"""

from importlib.util import find_spec

BACKEND = "vllm.model_executor.models.transformers:TransformersMultiModalForCausalLM"
QUANTIZATION_4BIT = "fourfold_4bit"


def register() -> None:
    """Register MiniGPT-v2 with transformers' Auto classes and with vLLM, and 4-bit weights where they can be had.

    Safe to call again, as vLLM asks of plugins. Transformers' registration alone is not enough: vLLM looks an
    architecture up in a registry of its own.
    """
    # Importing the package registers the Auto classes.
    from vllm import ModelRegistry

    from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration

    ModelRegistry.register_model(MiniGPTv2ForConditionalGeneration.__name__, BACKEND)
    if find_spec("vllm_bnb_plugin") is not None:
        _register_4bit()


def _register_4bit() -> None:
    """Register bitsandbytes' NF4 of the language model alone, under the name `QUANTIZATION_4BIT`.

    vLLM's own "bitsandbytes" takes no list of exceptions for a checkpoint that it quantises while loading, and so
    would quantise tower and projector too, which costs accuracy and saves little.
    """
    import vllm_bnb_plugin
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm_bnb_plugin.bitsandbytes import BitsAndBytesConfig

    vllm_bnb_plugin.register()  # the loader; vLLM calls plugins in no promised order

    @register_quantization_config(QUANTIZATION_4BIT)
    class LanguageModel4Bit(BitsAndBytesConfig):
        """NF4 with double quantisation, except in the parts that see."""

        def __init__(self) -> None:
            super().__init__(llm_int8_skip_modules=["vision_tower", "projector"])

        @classmethod
        def get_name(cls) -> str:
            return QUANTIZATION_4BIT
