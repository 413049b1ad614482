"""Low-bit weights by bitsandbytes: the language model only."""

import logging
from typing import Literal

import torch
from transformers import BitsAndBytesConfig

Quantization = Literal["4bit", "8bit"]

# Low-bit vision towers lose up to 23 points in the literature, the projector is small, and the head is often tied to
# the embedding table. transformers matches these from the start of a module's full name.
_SKIPPED = ["model.vision_tower", "model.vision_norm", "model.vision_block", "model.projector", "lm_head"]


def quantization_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """For `from_pretrained`: NF4 with double quantisation, or LLM.int8().

    Args:
        quantization: "4bit" or "8bit".
        dtype: in which products are computed, and in which everything else is kept.
    """
    # It warns that an optional kernel package, fetched from the network, is absent.
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_SKIPPED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_SKIPPED,
    )
